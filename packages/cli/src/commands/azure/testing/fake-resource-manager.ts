import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import { deletionOrder } from "../resource-manager/single-host.ts";
import { schemas } from "./schemas.ts";

export const subscription = "11111111-2222-3333-4444-555555555555";

interface Stored {
  readonly id: string;
  readonly type: string;
  body: Record<string, unknown> & { properties?: Record<string, unknown>; tags?: Record<string, string> };
  state: "Creating" | "Deleting" | "Succeeded" | "Failed";
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
}

interface Operation {
  pollsLeft: number;
  readonly finish: () => FakeError | undefined;
  error?: FakeError | undefined;
}

/**
 * A server that speaks Resource Manager's REST: long-running operations by Azure-AsyncOperation and by Location,
 * throttling, errors, and the checks of request bodies in schemas.ts. State is kept between connections, so that a client
 * that was interrupted finds what it had begun.
 */
export class FakeResourceManager implements AsyncDisposable {
  readonly endpoint: string;
  readonly resources = new Map<string, Stored>();
  /** Method and path of every request but polls. */
  readonly requests: string[] = [];
  /** The number of the request whose connection is cut before its reply, counted over all requests. */
  cutAt: number | undefined;
  /** Replies that replace the server's own, each used once. */
  readonly faults: FakeError[] = [];
  received = 0;
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

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", this.endpoint);
    const body = request.method === "PUT" ? ((await json(request)) as Stored["body"]) : undefined;
    this.received += 1;
    // Cut after the work: the client cannot tell whether it was done.
    const cut = this.received === this.cutAt;
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
    if (!url.pathname.startsWith(`/subscriptions/${subscription}/`))
      return errorReply({ status: 404, code: "SubscriptionNotFound" });
    if (url.pathname.endsWith("/skus")) return { status: 200, body: { value: this.#skus() } };
    if (url.pathname.endsWith("/usages")) return { status: 200, body: { value: this.#usages() } };
    if (url.pathname.endsWith("/resources")) return this.#list(url);
    if (url.pathname.endsWith("/instanceView"))
      return { status: 200, body: { statuses: [{ code: "PowerState/running" }] } };
    if (request.method === "PUT") return this.#put(url.pathname, body ?? {});
    return request.method === "DELETE" ? this.#delete(url.pathname) : this.#get(url.pathname);
  }

  #get(path: string): Reply {
    const found = this.resources.get(path.toLowerCase());
    return found === undefined ? notFound : { status: 200, body: shown(found) };
  }

  /** Two pages, so that a client that reads one loses resources. */
  #list(url: URL): Reply {
    const group = url.pathname.slice(0, -"/resources".length).toLowerCase();
    if (!this.resources.has(group)) return notFound;
    const inside = [...this.resources.values()].filter(({ id }) => id.toLowerCase().startsWith(`${group}/`)).map(shown);
    if (url.searchParams.has("page")) return { status: 200, body: { value: inside.slice(2) } };
    const next = new URL(url);
    next.searchParams.set("page", "2");
    return { status: 200, body: { value: inside.slice(0, 2), ...(inside.length > 2 ? { nextLink: next.href } : {}) } };
  }

  #put(path: string, body: Stored["body"]): Reply {
    const type = typeOf(path);
    const checked = schemas[type]?.safeParse(body);
    if (checked?.success !== true) {
      return errorReply({
        status: 400,
        code: "InvalidRequestContent",
        message: `${type}: ${checked?.error.message ?? "unknown type"}`,
      });
    }
    const parent = /^\/subscriptions\/[^/]+\/resourceGroups\/[^/]+/i.exec(path)?.[0] ?? "";
    const isGroup = parent === path;
    if (!isGroup && !this.resources.has(parent.toLowerCase()))
      return errorReply({ status: 404, code: "ResourceGroupNotFound" });
    for (const used of referencesIn(body)) {
      // A subnet lives in its network.
      const owner = used.replace(/\/subnets\/[^/]+$/, "");
      if (this.resources.get(owner.toLowerCase())?.state !== "Succeeded") {
        return errorReply({ status: 400, code: "InvalidResourceReference", message: `${used} is not there` });
      }
    }
    const before = this.resources.get(path.toLowerCase());
    if (before?.state === "Deleting") return errorReply({ status: 409, code: "Conflict" });
    const stored: Stored = { id: path, type, body, state: isGroup ? "Succeeded" : "Creating" };
    this.resources.set(path.toLowerCase(), stored);
    const status = before === undefined ? 201 : 200;
    if (isGroup) return { status, body: shown(stored) };
    const finish = (): FakeError | undefined => {
      const size = sizeIn(body);
      if (size !== undefined && this.#options.unplaceable?.includes(size)) {
        stored.state = "Failed";
        return { status: 200, code: "AllocationFailed", message: "no capacity" };
      }
      stored.state = "Succeeded";
      if (type.endsWith("publicipaddresses")) stored.body = withAddress(body);
      return undefined;
    };
    // Some services name an operation, and some let clients poll the resource.
    if (type.endsWith("networkinterfaces")) {
      finish();
      return { status, body: shown(stored) };
    }
    return { status, body: shown(stored), headers: { "azure-asyncoperation": this.#begin(finish) } };
  }

  #delete(path: string): Reply {
    const found = this.resources.get(path.toLowerCase());
    if (found === undefined) return { status: 204 };
    const users = [...this.resources.values()].filter((other) =>
      referencesIn(other.body).some((used) => used.toLowerCase().startsWith(path.toLowerCase())),
    );
    if (users.length > 0) return errorReply({ status: 409, code: "InUse", message: `${users[0]?.id} uses it` });
    found.state = "Deleting";
    const finish = (): undefined => {
      for (const key of this.resources.keys()) {
        if (key === path.toLowerCase() || key.startsWith(`${path.toLowerCase()}/`)) this.resources.delete(key);
      }
    };
    return { status: 202, headers: { location: this.#begin(finish) } };
  }

  #begin(finish: Operation["finish"]): string {
    const path = `/operations/${this.#operations.size + 1}`;
    this.#operations.set(path, { pollsLeft: 2, finish });
    return `${this.endpoint}${path}?api-version=1`;
  }

  #poll(operation: Operation, url: URL): Reply {
    operation.pollsLeft -= 1;
    if (operation.pollsLeft > 0) return { status: 202, body: { status: "InProgress" } };
    operation.error = operation.finish();
    this.#operations.set(url.pathname, { pollsLeft: 0, finish: () => operation.error });
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

interface Reply {
  readonly status: number;
  readonly body?: object;
  readonly headers?: Readonly<Record<string, string>>;
}

function errorReply({ status, code, message = code, headers }: FakeError): Reply {
  return { status, body: { error: { code, message } }, ...(headers === undefined ? {} : { headers }) };
}

const notFound = errorReply({ status: 404, code: "ResourceNotFound" });

function shown({ id, type, body, state }: Stored): object {
  return { ...body, id, type, properties: { ...body.properties, provisioningState: state } };
}

function typeOf(path: string): string {
  const [, provider, type] = /\/providers\/([^/]+)\/([^/]+)\/[^/]+$/.exec(path) ?? [];
  return provider === undefined ? "microsoft.resources/resourcegroups" : `${provider}/${type}`.toLowerCase();
}

/** The ids of other resources in a body. */
function referencesIn(value: unknown): string[] {
  if (typeof value === "string") return value.startsWith("/subscriptions/") ? [value] : [];
  return typeof value === "object" && value !== null ? Object.values(value).flatMap(referencesIn) : [];
}

function sizeIn(body: Stored["body"]): string | undefined {
  return (body.properties as { hardwareProfile?: { vmSize?: string } } | undefined)?.hardwareProfile?.vmSize;
}

function withAddress(body: Stored["body"]): Stored["body"] {
  const label = (body.properties as { dnsSettings: { domainNameLabel: string } }).dnsSettings.domainNameLabel;
  const fqdn = `${label}.eastus.cloudapp.azure.com`;
  return {
    ...body,
    properties: { ...body.properties, ipAddress: "203.0.113.7", dnsSettings: { domainNameLabel: label, fqdn } },
  };
}

function vcpusOf(size: string): number {
  return Number(/^Standard_D(\d+)/.exec(size)?.[1] ?? 0);
}

/** Types that the server knows and that no deletion would find. */
export const undeletable = Object.keys(schemas).filter(
  (type) =>
    type !== "microsoft.resources/resourcegroups" && !deletionOrder.some(([known]) => known.toLowerCase() === type),
);
