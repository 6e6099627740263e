import { once } from "node:events";
import { readFile } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";

const subscription = "11111111-2222-3333-4444-555555555555";
const tenant = "99999999-8888-7777-6666-555555555555";

type Body = Readonly<Record<string, unknown>>;

interface Resource {
  readonly id: string;
  readonly name: string;
  readonly type: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly properties: Record<string, unknown>;
}

interface Reply {
  readonly status: number;
  readonly body?: unknown;
}

/**
 * As much of Azure as the program `az` needs for one host: the description of a cloud, a managed identity, and a Resource
 * Manager that accepts any body and makes the resources of a template at once. `az` itself checks its arguments.
 */
export class AzureForAz implements AsyncDisposable {
  readonly endpoint: string;
  readonly resources = new Map<string, Resource>();
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
    this.endpoint = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on("request", (request, response) => void this.#serve(request, response));
  }

  /** `az` sends its token by TLS only. */
  static async start(keyFile: string, certFile: string): Promise<AzureForAz> {
    const server = createServer({ key: await readFile(keyFile), cert: await readFile(certFile) });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return new AzureForAz(server);
  }

  names(): string[] {
    return [...this.resources.values()]
      .filter(({ type }) => !/deployments$/i.test(type))
      .map(({ type, name }) => `${type.split("/").at(-1)}/${name}`)
      .toSorted();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const raw = await text(request);
    const url = new URL(request.url ?? "/", this.endpoint);
    const { status, body } = this.#answer(request.method ?? "GET", url, raw === "" ? {} : (JSON.parse(raw) as Body));
    response.writeHead(status, { "content-type": "application/json" });
    response.end(body === undefined ? "" : JSON.stringify(body));
  }

  #answer(method: string, url: URL, body: Body): Reply {
    const path = url.pathname.replaceAll("//", "/");
    return (
      this.#account(path, url) ??
      this.#catalogue(path) ??
      this.#change(method, path, body) ??
      this.#show(method, path, url)
    );
  }

  #account(path: string, url: URL): Reply | undefined {
    const { endpoint } = this;
    const account = { id: `/subscriptions/${subscription}`, subscriptionId: subscription, tenantId: tenant };
    const named = { ...account, displayName: "test", state: "Enabled" };
    switch (path) {
      case "/metadata/endpoints":
        return ok({
          name: "fake",
          resourceManager: endpoint,
          authentication: { loginEndpoint: "https://login.invalid", audiences: [endpoint], tenant: "common" },
          suffixes: {},
          ...{ portal: endpoint, graph: endpoint, graphAudience: endpoint, batch: endpoint, media: endpoint },
        });
      case "/msi/token":
        return ok({
          access_token: unsignedToken(),
          expires_on: "4000000000",
          resource: url.searchParams.get("resource"),
          token_type: "Bearer",
        });
      case "/subscriptions":
        return ok({ value: [named] });
      case "/tenants":
        return ok({ value: [{ tenantId: tenant }] });
      default:
        return path === account.id ? ok(named) : undefined;
    }
  }

  /** Images and resource providers. */
  #catalogue(path: string): Reply | undefined {
    if (/\/artifacttypes\/vmimage\/.*\/versions$/i.test(path))
      return ok([{ name: "24.04.1", location: "eastus", id: path }]);
    if (/\/artifacttypes\/vmimage\//i.test(path)) {
      const properties = { hyperVGeneration: "V2", osDiskImage: { operatingSystem: "Linux" }, dataDiskImages: [] };
      return ok({ name: "24.04.1", location: "eastus", properties });
    }
    const [, namespace] = /\/providers\/(Microsoft\.\w+)$/i.exec(path) ?? [];
    if (namespace === undefined) return undefined;
    const types = [
      "virtualMachines",
      "networkSecurityGroups",
      "virtualNetworks",
      "publicIPAddresses",
      "networkInterfaces",
    ];
    const resourceTypes = [...types, "disks", "deployments"].map((resourceType) => ({
      resourceType,
      locations: ["East US"],
      apiVersions: ["2024-07-01"],
    }));
    return ok({ namespace, registrationState: "Registered", resourceTypes });
  }

  #change(method: string, path: string, body: Body): Reply | undefined {
    if (/\/deployments\/[^/]+\/validate$/i.test(path)) return ok({ properties: { provisioningState: "Succeeded" } });
    if (method === "DELETE") {
      this.#delete(path.toLowerCase());
      return { status: 200 };
    }
    if (method !== "PUT" && method !== "PATCH") return undefined;
    const [, owner] = /^(.*)\/securityRules\/[^/]+$/i.exec(path) ?? [];
    if (owner !== undefined) {
      const group = this.resources.get(owner.toLowerCase());
      if (group === undefined) return notFound(owner);
      const properties = { ...(body["properties"] as object), provisioningState: "Succeeded" };
      const rule = { ...body, id: path, properties };
      group.properties["securityRules"] = [
        ...((group.properties["securityRules"] as object[] | undefined) ?? []),
        rule,
      ];
      return { status: 201, body: rule };
    }
    if (/\/deployments\/[^/]+$/i.test(path)) {
      const { template } = body["properties"] as { template: { resources: { type: string; name: string }[] } };
      const group = /^.*\/resourceGroups\/[^/]+/i.exec(path)?.[0] ?? "";
      for (const { type, name, ...rest } of template.resources) this.#put(`${group}/providers/${type}/${name}`, rest);
      return { status: 201, body: this.#put(path, { properties: { outputs: {} } }) };
    }
    return { status: 201, body: this.#put(path, body) };
  }

  #put(id: string, body: Body): Resource {
    const [, type = "Microsoft.Resources/resourceGroups"] = /\/providers\/([^/]+\/[^/]+)\/[^/]+$/.exec(id) ?? [];
    const running = { statuses: [{ code: "PowerState/running", displayStatus: "VM running" }] };
    const resource: Resource = {
      location: "eastus",
      tags: {},
      ...body,
      id,
      type,
      name: id.split("/").at(-1) ?? "",
      properties: {
        ...this.resources.get(id.toLowerCase())?.properties,
        ...(body["properties"] as object | undefined),
        provisioningState: "Succeeded",
        ...(/virtualMachines$/i.test(type) ? { instanceView: running } : {}),
        ...(/publicIPAddresses$/i.test(type) ? { ipAddress: "203.0.113.7" } : {}),
      },
    } as Resource;
    this.resources.set(id.toLowerCase(), resource);
    return resource;
  }

  /** With a machine go its disks and its network interface, as their deleteOption says. */
  #delete(path: string): void {
    const isMachine = path.includes("/virtualmachines/");
    for (const key of this.resources.keys()) {
      const goesAlong = isMachine && /\/(disks|networkinterfaces)\//.test(key);
      if (key === path || key.startsWith(`${path}/`) || goesAlong) this.resources.delete(key);
    }
  }

  #show(method: string, path: string, url: URL): Reply {
    const lower = path.toLowerCase();
    const found = this.resources.get(lower);
    if (method === "HEAD") return { status: found === undefined ? 404 : 204 };
    if (found !== undefined) return ok(found);
    if (this.resources.has(lower.replace(/\/subnets\/[^/]+$/, ""))) {
      return ok({ id: path, name: path.split("/").at(-1), properties: { provisioningState: "Succeeded" } });
    }
    const all = [...this.resources.values()];
    if (/\/resources$/i.test(path)) {
      const type = /resourceType eq '([^']+)'/.exec(url.searchParams.get("$filter") ?? "")?.[1]?.toLowerCase();
      // There is one group, so its name in the filter changes nothing.
      const inside = all.filter(
        (resource) =>
          resource.id.includes("/providers/") &&
          !/deployments$/i.test(resource.type) &&
          (type === undefined || resource.type.toLowerCase() === type),
      );
      return ok({ value: inside });
    }
    if (/\/providers\/[^/]+\/[^/]+$/i.test(path)) {
      return ok({ value: all.filter(({ id }) => id.toLowerCase().startsWith(`${lower}/`)) });
    }
    return notFound(path);
  }
}

function ok(body: unknown): Reply {
  return { status: 200, body };
}

function notFound(path: string): Reply {
  return { status: 404, body: { error: { code: "ResourceNotFound", message: `${path} is not there` } } };
}

/** `az` reads the tenant from the token and leaves its signature to Azure. */
function unsignedToken(): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "RS256", typ: "JWT" })}.${part({ tid: tenant, oid: "1", exp: 4_000_000_000 })}.c2lnbmVk`;
}
