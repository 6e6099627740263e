import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import { deletionOrder } from "../resource-manager/single-host.ts";
import { publishedProblem } from "./published-schemas.ts";
import { names, schemas } from "./schemas.ts";

export const tenant = "99999999-8888-7777-6666-555555555555";
export const subscription = "11111111-2222-3333-4444-555555555555";

interface Stored {
  readonly id: string;
  readonly type: string;
  body: Record<string, unknown> & { properties?: Record<string, unknown>; tags?: Record<string, string> };
  state: "Creating" | "Deleting" | "Succeeded" | "Failed";
  /** Ends the creation of a resource whose service works on without its client. */
  finish?: () => void;
  /** States of a machine in its instance view. */
  power?: string[];
}

interface FakeError {
  readonly status: number;
  readonly code: string;
  readonly message?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface FakeOptions {
  /** Sizes that the location has; each with a family of its own. */
  readonly sizes?: readonly string[];
  /** Free vCPUs of each family. */
  readonly free?: (size: string) => number;
  /** Sizes whose machine cannot be placed; its operation fails after it has begun, and leaves a failed machine. */
  readonly unplaceable?: readonly string[];
  /** Machines that the quota of a scale set allows. */
  readonly maxMachines?: number;
  /** Whether the machine of a scale set with that host name cannot be placed. */
  readonly failing?: (host: string) => boolean;
}

interface SetMachine {
  readonly host: string;
  readonly image: string;
  readonly state: "Succeeded" | "Failed";
}

interface MachineProfile {
  readonly osProfile: { readonly computerNamePrefix: string };
  readonly storageProfile: { readonly imageReference: { readonly id: string } };
}

interface Operation {
  /** The call that began it. */
  readonly of: string;
  pollsLeft: number;
  readonly finish: () => FakeError | undefined;
  error?: FakeError | undefined;
}

/**
 * A server that speaks Resource Manager's REST: long-running operations by Azure-AsyncOperation and by Location,
 * throttling, errors, and the checks of request bodies in published-schemas.ts and schemas.ts. It keeps its state between
 * connections, so that an interrupted client finds the operations that it had begun.
 */
export class FakeResourceManager implements AsyncDisposable {
  readonly endpoint: string;
  readonly resources = new Map<string, Stored>();
  /** Method and path of every request but polls. */
  readonly requests: string[] = [];
  /** The number of the request whose connection is cut before its reply, counted over all requests. */
  cutAt: number | undefined;
  /** Cuts the connection of every request, and of the first poll of its operation, once each. */
  cutsEach = false;
  /** Requests that {@link cutsEach} has cut. */
  readonly cut = new Set<string>();
  /** Replies that replace the server's own, each used once. */
  readonly faults: FakeError[] = [];
  received = 0;
  /** Machines of scale sets by their instance id, which is never used again. */
  readonly #machines = new Map<string, (SetMachine | undefined)[]>();
  readonly #operations = new Map<string, Operation>();
  readonly #server: Server;
  readonly #options: FakeOptions;

  private constructor(server: Server, options: FakeOptions) {
    this.#server = server;
    this.#options = options;
    this.endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on("request", (request, response) => void this.#serve(request, response));
  }

  static async start(options: FakeOptions = {}): Promise<FakeResourceManager> {
    const server = createServer();
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return new FakeResourceManager(server, options);
  }

  /** Types and names of everything that exists, sorted. */
  names(): string[] {
    return [...this.resources.values()].map(({ id }) => id.split("/").slice(-2).join("/")).toSorted();
  }

  /** The newest body of a resource, by the end of its id. */
  bodyOf(ending: string): Record<string, unknown> | undefined {
    return [...this.resources.values()].find(({ id }) => id.endsWith(ending))?.body;
  }

  /** Adds a resource that this program did not make. */
  add(id: string, type: string, tags: Record<string, string> = {}): void {
    this.resources.set(id.toLowerCase(), { id, type, body: { location: "eastus", tags }, state: "Succeeded" });
  }

  /** Adds a scale set with a machine for each of these host names, which were started from that image. */
  addScaleSet(id: string, hosts: readonly string[], image = ""): void {
    const sku = { name: "Standard_D48as_v6", tier: "Standard", capacity: hosts.length };
    const type = "microsoft.compute/virtualmachinescalesets";
    const storageProfile = { imageReference: { id: image } };
    const osProfile = { computerNamePrefix: hosts[0]?.replace(/\w+$/, "") ?? "" };
    const properties = { virtualMachineProfile: { osProfile, storageProfile } };
    const tags = { opensandbox: "lab" };
    this.resources.set(id.toLowerCase(), {
      ...{ id, type, state: "Succeeded" },
      body: { location: "eastus", sku, tags, properties },
    });
    this.#machines.set(
      id.toLowerCase(),
      hosts.map((host) => ({ host, image, state: "Succeeded" })),
    );
  }

  /** The host names of the machines of a scale set. */
  machinesOf(id: string): readonly string[] {
    return this.#present(id).map(({ host }) => host);
  }

  /** Makes a scale set and its machines look as if they were made from that image. */
  makeFrom(id: string, image: string): void {
    const set = this.resources.get(id.toLowerCase());
    const profile = (set?.body.properties as { virtualMachineProfile?: { storageProfile?: object } } | undefined)
      ?.virtualMachineProfile;
    Object.assign(profile?.storageProfile ?? {}, { imageReference: { id: image } });
    const machines = this.#machines.get(id.toLowerCase()) ?? [];
    this.#machines.set(
      id.toLowerCase(),
      machines.map((machine) => (machine === undefined ? undefined : { ...machine, image })),
    );
  }

  /** The images of the machines of a scale set. */
  imagesOf(id: string): readonly string[] {
    return this.#present(id).map(({ image }) => image);
  }

  #present(id: string): readonly SetMachine[] {
    return (this.#machines.get(id.toLowerCase()) ?? []).filter((machine) => machine !== undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", this.endpoint);
    const hasBody = Number(request.headers["content-length"] ?? 0) > 0;
    const body = hasBody ? ((await json(request)) as Stored["body"]) : undefined;
    this.received += 1;
    // Cut after the work: the client cannot tell whether it was done.
    const name = `${request.method} ${this.#operations.get(url.pathname)?.of ?? url.pathname}`;
    const cut = this.received === this.cutAt || (this.cutsEach && !this.cut.has(name));
    if (cut) this.cut.add(name);
    const reply = this.#answer(request, url, body);
    if (cut) return void response.destroy();
    // Clients wait as briefly as they can.
    response.writeHead(reply.status, { "retry-after": "0", ...reply.headers });
    response.end(reply.body === undefined ? "" : JSON.stringify(reply.body));
  }

  #answer(request: IncomingMessage, url: URL, body: Stored["body"] | undefined): Reply {
    if (request.headers.authorization !== "Bearer token-of-the-test")
      return errorReply({ status: 401, code: "AuthenticationFailed" });
    const operation = this.#operations.get(url.pathname);
    if (operation !== undefined) return this.#poll(operation, url);
    this.requests.push(`${request.method} ${url.pathname}`);
    const fault = this.faults.shift();
    if (fault !== undefined) return errorReply(fault);
    if (!url.searchParams.has("api-version")) return errorReply({ status: 400, code: "MissingApiVersionParameter" });
    if (!`${url.pathname}/`.startsWith(`/subscriptions/${subscription}/`))
      return errorReply({ status: 404, code: "SubscriptionNotFound" });
    if (url.pathname.endsWith("/skus")) return { status: 200, body: { value: this.#skus() } };
    if (url.pathname.endsWith("/usages")) return { status: 200, body: { value: this.#usages() } };
    if (url.pathname.endsWith("/resources")) return this.#list(url);
    if (request.method === "GET" && url.pathname === `/subscriptions/${subscription}`)
      return { status: 200, body: { subscriptionId: subscription, tenantId: tenant } };
    if (url.pathname.endsWith("/instanceView")) return this.#instanceView(url.pathname);
    if (url.pathname.endsWith("/virtualMachines")) return this.#listMachines(url.pathname);
    if (request.method === "POST") return this.#act(url.pathname, body ?? {});
    if (request.method === "PATCH") return this.#patch(url.pathname, body ?? {});
    if (request.method === "PUT") return this.#put(url.pathname, body ?? {});
    return request.method === "DELETE" ? this.#delete(url.pathname) : this.#get(url.pathname);
  }

  #get(path: string): Reply {
    const found = this.resources.get(path.toLowerCase());
    if (found === undefined) return notFound;
    const reply = { status: 200, body: shown(found) };
    found.finish?.();
    return reply;
  }

  #instanceView(path: string): Reply {
    const machine = this.resources.get(path.replace(/\/instanceView$/, "").toLowerCase());
    if (machine === undefined) return notFound;
    return { status: 200, body: { statuses: (machine.power ?? ["PowerState/running"]).map((code) => ({ code })) } };
  }

  #listMachines(path: string): Reply {
    const machines = this.#machines.get(path.replace(/\/virtualMachines$/, "").toLowerCase()) ?? [];
    const value = machines.flatMap((machine, index) => {
      if (machine === undefined) return [];
      const { host: computerName, image: id, state: provisioningState } = machine;
      const storageProfile = { imageReference: { id } };
      const vmId = `vm-id-${index}`;
      return [
        {
          instanceId: `${index}`,
          properties: { vmId, provisioningState, osProfile: { computerName }, storageProfile },
        },
      ];
    });
    return { status: 200, body: { value } };
  }

  /** The operations of a machine that prepare its image, and the deletion of machines of a scale set. */
  #act(path: string, body: Stored["body"]): Reply {
    const [, owner = "", action = ""] = /^(.*)\/([^/]+)$/.exec(path) ?? [];
    const machine = this.resources.get(owner.toLowerCase());
    if (machine === undefined) return notFound;
    switch (action) {
      case "deallocate": {
        const finish = (): undefined => {
          machine.power = ["PowerState/deallocated"];
        };
        return { status: 202, headers: { "azure-asyncoperation": this.#begin(`POLL ${path}`, finish) } };
      }
      case "generalize":
        if (!machine.power?.includes("PowerState/deallocated"))
          return errorReply({ status: 409, code: "OperationNotAllowed", message: "the machine runs" });
        machine.power = ["PowerState/deallocated", "OSState/generalized"];
        return { status: 200 };
      case "delete": {
        const problem = publishedProblem(`POST ${machine.type}/delete`, body);
        if (problem !== undefined) return errorReply({ status: 400, code: "InvalidRequestContent", message: problem });
        const { instanceIds } = body as unknown as { instanceIds: string[] };
        const finish = (): undefined => {
          const machines = this.#machines.get(owner.toLowerCase()) ?? [];
          for (const instanceId of instanceIds) machines[Number(instanceId)] = undefined;
          machine.body["sku"] = { ...(machine.body["sku"] as object), capacity: this.#present(owner).length };
        };
        return { status: 202, headers: { location: this.#begin(`POLL ${path}`, finish) } };
      }
      default:
        return errorReply({ status: 404, code: "InvalidResourceType", message: action });
    }
  }

  #patch(path: string, body: Stored["body"]): Reply {
    const found = this.resources.get(path.toLowerCase());
    if (found === undefined) return notFound;
    const sku = { ...(found.body["sku"] as object | undefined), ...(body["sku"] as { capacity?: number } | undefined) };
    const problem = publishedProblem(`PATCH ${found.type}`, body);
    if (problem !== undefined) return errorReply({ status: 400, code: "InvalidRequestContent", message: problem });
    const { maxMachines = Infinity } = this.#options;
    if ((sku.capacity ?? 0) > maxMachines)
      return errorReply({ status: 409, code: "OperationNotAllowed", message: `a quota of ${maxMachines} machines` });
    // Tags are replaced as a whole.
    found.body = {
      ...found.body,
      sku,
      ...(body.tags === undefined ? {} : { tags: body.tags }),
      properties: merged(found.body.properties ?? {}, body.properties ?? {}),
    };
    const finish = (): undefined => this.#fill(found);
    return {
      status: 200,
      body: shown(found),
      headers: { "azure-asyncoperation": this.#begin(`POLL ${path}`, finish) },
    };
  }

  /** Makes the machines that a scale set lacks, from its image of now. */
  #fill({ id, body }: Stored): undefined {
    const machines = this.#machines.get(id.toLowerCase()) ?? [];
    this.#machines.set(id.toLowerCase(), machines);
    const { capacity = 0 } = body["sku"] as { capacity?: number };
    const { osProfile, storageProfile } = (body.properties as { virtualMachineProfile: MachineProfile })
      .virtualMachineProfile;
    const image = storageProfile.imageReference.id;
    while (this.#present(id).length < capacity) {
      const host = `${osProfile.computerNamePrefix}${machines.length.toString(36).padStart(6, "0")}`;
      machines.push({ host, image, state: this.#options.failing?.(host) === true ? "Failed" : "Succeeded" });
    }
  }

  /** Two pages, so that a client that reads one loses resources. */
  #list(url: URL): Reply {
    const group = url.pathname.slice(0, -"/resources".length).toLowerCase();
    if (!this.resources.has(group)) return notFound;
    const inside = [...this.resources.values()]
      .filter(({ id, type }) => id.toLowerCase().startsWith(`${group}/`) && !isPart(type))
      .map(shown);
    if (url.searchParams.has("page")) return { status: 200, body: { value: inside.slice(2) } };
    const next = new URL(url);
    next.searchParams.set("page", "2");
    return { status: 200, body: { value: inside.slice(0, 2), ...(inside.length > 2 ? { nextLink: next.href } : {}) } };
  }

  #put(path: string, body: Stored["body"]): Reply {
    const type = typeOf(path);
    const problem = publishedProblem(type, body) ?? problemOfValues(type, body);
    if (problem !== undefined) return errorReply({ status: 400, code: "InvalidRequestContent", message: problem });
    const name = path.split("/").at(-1) ?? "";
    if (names[type]?.test(name) === false) {
      return errorReply({ status: 400, code: "InvalidResourceName", message: `${type}: ${name}` });
    }
    const owner = ownerOf(path);
    if (owner !== undefined && this.resources.get(owner.toLowerCase())?.state !== "Succeeded") {
      return errorReply({ status: 404, code: "ParentResourceNotFound", message: `${owner} is not there` });
    }
    const parent = /^\/subscriptions\/[^/]+\/resourceGroups\/[^/]+/i.exec(path)?.[0] ?? "";
    const isGroup = parent === path;
    if (!isGroup && !this.resources.has(parent.toLowerCase()))
      return errorReply({ status: 404, code: "ResourceGroupNotFound" });
    for (const used of referencesIn(body)) {
      // Azure has roles in every subscription.
      if (used.includes("/roleDefinitions/")) continue;
      // A subnet lives in its network.
      const owner = used.replace(/\/subnets\/[^/]+$/, "");
      if (this.resources.get(owner.toLowerCase())?.state !== "Succeeded") {
        return errorReply({ status: 400, code: "InvalidResourceReference", message: `${used} is not there` });
      }
    }
    const before = this.resources.get(path.toLowerCase());
    if (before?.state === "Deleting") return errorReply({ status: 409, code: "Conflict" });
    // Azure answers so while a database server is being made.
    if (before?.state === "Creating" && type === "microsoft.dbforpostgresql/flexibleservers")
      return errorReply({ status: 409, code: "ServerIsBusy" });
    const isAtOnce = isGroup || isPart(type) || type === "microsoft.managedidentity/userassignedidentities";
    const stored: Stored = { id: path, type, body: withFacts(type, body), state: isAtOnce ? "Succeeded" : "Creating" };
    this.resources.set(path.toLowerCase(), stored);
    const status = before === undefined ? 201 : 200;
    if (isAtOnce) return { status, body: shown(stored) };
    const finish = (): FakeError | undefined => {
      const size = sizeIn(body);
      if (size !== undefined && this.#options.unplaceable?.includes(size)) {
        stored.state = "Failed";
        return { status: 200, code: "AllocationFailed", message: "no capacity" };
      }
      stored.state = "Succeeded";
      if (type.endsWith("publicipaddresses")) stored.body = withAddress(body);
      if (type.endsWith("virtualmachinescalesets")) this.#fill(stored);
      return undefined;
    };
    if (type === "microsoft.dbforpostgresql/flexibleservers") stored.finish = finish;
    // Some services name an operation, and some let clients poll the resource.
    if (type.endsWith("networkinterfaces")) {
      finish();
      return { status, body: shown(stored) };
    }
    return { status, body: shown(stored), headers: { "azure-asyncoperation": this.#begin(`POLL ${path}`, finish) } };
  }

  #delete(path: string): Reply {
    const found = this.resources.get(path.toLowerCase());
    if (found === undefined) return { status: 204 };
    // An image outlives the machine that it was captured from.
    const users = [...this.resources.values()]
      .filter(({ type }) => type !== "microsoft.compute/images")
      .filter(
        (other) =>
          !isWithin(other.id, path) &&
          referencesIn(other.body).some((used) => used.toLowerCase().startsWith(path.toLowerCase())),
      );
    if (users.length > 0) return errorReply({ status: 409, code: "InUse", message: `${users[0]?.id} uses it` });
    found.state = "Deleting";
    const finish = (): undefined => {
      for (const key of this.resources.keys()) {
        if (key === path.toLowerCase() || key.startsWith(`${path.toLowerCase()}/`)) this.resources.delete(key);
      }
    };
    return { status: 202, headers: { location: this.#begin(`POLL ${path}`, finish) } };
  }

  #begin(of: string, finish: Operation["finish"]): string {
    const path = `/operations/${this.#operations.size + 1}`;
    this.#operations.set(path, { of, pollsLeft: 2, finish });
    return `${this.endpoint}${path}?api-version=1`;
  }

  #poll(operation: Operation, url: URL): Reply {
    operation.pollsLeft -= 1;
    if (operation.pollsLeft > 0) return { status: 202, body: { status: "InProgress" } };
    operation.error = operation.finish();
    this.#operations.set(url.pathname, { of: operation.of, pollsLeft: 0, finish: () => operation.error });
    const { error } = operation;
    return { status: 200, body: error === undefined ? { status: "Succeeded" } : { status: "Failed", error } };
  }

  #skus(): object[] {
    const { sizes = ["Standard_D48as_v6"] } = this.#options;
    return sizes.map((name) => ({
      resourceType: "virtualMachines",
      name,
      family: `family of ${name}`,
      capabilities: [{ name: "vCPUs", value: String(vcpusOf(name)) }],
      restrictions: [],
    }));
  }

  #usages(): object[] {
    const { sizes = ["Standard_D48as_v6"], free = vcpusOf } = this.#options;
    return [
      { name: { value: "cores" }, currentValue: 0, limit: 1000 },
      ...sizes.map((name) => ({ name: { value: `family of ${name}` }, currentValue: 10, limit: 10 + free(name) })),
    ];
  }
}

/** The objects of a change replace nothing but what they name. */
function merged(before: Record<string, unknown>, change: Record<string, unknown>): Record<string, unknown> {
  const result = { ...before };
  for (const [name, value] of Object.entries(change)) {
    const old = before[name];
    const isBoth = isObject(old) && isObject(value);
    result[name] = isBoth ? merged(old, value) : value;
  }
  return result;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isWithin(id: string, path: string): boolean {
  return `${id.toLowerCase()}/`.startsWith(`${path.toLowerCase()}/`);
}

/** Parts that Azure does not list beside the resources of a group. */
function isPart(type: string): boolean {
  return (type.split("/").length > 2 && !type.endsWith("/virtualnetworklinks")) || type.endsWith("/roleassignments");
}

/** The resource that has the part with this path. */
function ownerOf(path: string): string | undefined {
  const [, scope] =
    /^(.*\/providers\/.*)\/providers\/Microsoft\.Authorization\/roleAssignments\/[^/]+$/.exec(path) ?? [];
  if (scope !== undefined) return scope;
  const [, owner] = /^(.*\/providers\/[^/]+\/[^/]+\/[^/]+)\/.+$/.exec(path) ?? [];
  return owner;
}

/** What Azure adds to a new resource. */
function withFacts(type: string, body: Stored["body"]): Stored["body"] {
  const added: Readonly<Record<string, Record<string, unknown>>> = {
    "microsoft.managedidentity/userassignedidentities": { principalId: "12345678-1234-1234-1234-123456789012" },
    "microsoft.network/dnszones": { nameServers: ["ns1.azure-dns.example.", "ns2.azure-dns.example."] },
  };
  return added[type] === undefined ? body : { ...body, properties: { ...body.properties, ...added[type] } };
}

interface Reply {
  readonly status: number;
  readonly body?: object;
  readonly headers?: Readonly<Record<string, string>>;
}

function errorReply({ status, code, message = code, headers }: FakeError): Reply {
  return { status, body: { error: { code, message } }, ...(headers === undefined ? {} : { headers }) };
}

/** What the reference says beyond the names and types of properties. */
function problemOfValues(type: string, body: unknown): string | undefined {
  const checked = schemas[type]?.safeParse(body);
  return checked?.success === true ? undefined : `${type}: ${checked?.error.message ?? "unknown type"}`;
}

const notFound = errorReply({ status: 404, code: "ResourceNotFound" });

function shown({ id, type, body, state }: Stored): object {
  // A database server has a state of its own, and no service shows a password or the value of a secret.
  const isDatabase = type === "microsoft.dbforpostgresql/flexibleservers";
  const progress = isDatabase
    ? { state: state === "Succeeded" ? "Ready" : "Provisioning" }
    : { provisioningState: state };
  const { administratorLoginPassword: _, value: __, ...properties } = body.properties ?? {};
  return { ...body, id, type, properties: { ...properties, ...(isPart(type) ? {} : progress) } };
}

function typeOf(path: string): string {
  const [, provider, rest = ""] = /^.*\/providers\/([^/]+)\/(.+)$/.exec(path) ?? [];
  if (provider === undefined) return "microsoft.resources/resourcegroups";
  const types = rest.split("/").filter((_, index) => index % 2 === 0);
  return [provider, ...types].join("/").toLowerCase();
}

/** The ids of other resources in a body. */
function referencesIn(value: unknown): string[] {
  if (typeof value === "string") return value.startsWith("/subscriptions/") ? [value] : [];
  return typeof value === "object" && value !== null ? Object.values(value).flatMap(referencesIn) : [];
}

function sizeIn(body: Stored["body"]): string | undefined {
  const ofMachine = (body.properties as { hardwareProfile?: { vmSize?: string } } | undefined)?.hardwareProfile?.vmSize;
  return ofMachine ?? (body["sku"] as { name?: string } | undefined)?.name;
}

function withAddress(body: Stored["body"]): Stored["body"] {
  const label = (body.properties as { dnsSettings?: { domainNameLabel: string } }).dnsSettings?.domainNameLabel;
  if (label === undefined) return { ...body, properties: { ...body.properties, ipAddress: "203.0.113.8" } };
  const fqdn = `${label}.eastus.cloudapp.azure.com`;
  return {
    ...body,
    properties: { ...body.properties, ipAddress: "203.0.113.7", dnsSettings: { domainNameLabel: label, fqdn } },
  };
}

function vcpusOf(size: string): number {
  return Number(/^Standard_D(\d+)/.exec(size)?.[1] ?? 0);
}

/** Types that the server knows and that no deletion would find. A part goes with its owner. */
export const undeletable = Object.keys(schemas).filter(
  (type) =>
    type !== "microsoft.resources/resourcegroups" &&
    !isPart(type) &&
    !deletionOrder.some(([known]) => known.toLowerCase() === type),
);
