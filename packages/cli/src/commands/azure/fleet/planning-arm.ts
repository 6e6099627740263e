import type { Arm, ArmCall, ArmResult } from "../resource-manager/arm-client.ts";
import { type AzureFleet, image, serverSizes } from "./fleet-plan.ts";

/**
 * Records the calls of a creation in an empty subscription, and sends none. Replies hold placeholders for what only Azure
 * knows, and every size is available.
 */
export class PlanningArm implements Arm {
  readonly calls: ArmCall[] = [];
  readonly #fleet: AzureFleet;
  readonly #sizes: readonly string[];
  readonly #hasImage: boolean;
  readonly #made = new Map<string, object>();

  /** @param options `hasImage`: whether the image of the fleet exists, as before every creation of a fleet */
  constructor(
    fleet: AzureFleet,
    sizes: readonly string[],
    options: { readonly hasImage: boolean } = { hasImage: true },
  ) {
    this.#fleet = fleet;
    this.#sizes = [...sizes, ...serverSizes];
    this.#hasImage = options.hasImage;
  }

  async send(call: ArmCall): Promise<ArmResult> {
    this.calls.push(withoutSecret(call));
    const { method, path, body } = call;
    if (method === "PUT") this.#made.set(path, replyTo(path, body ?? {}, this.#fleet.name));
    if (path === `/subscriptions/${this.#fleet.subscription}`) return found({ tenantId: "TENANT-ID" });
    if (this.#hasImage && path === image(this.#fleet, "").path) return found(replyTo(path, {}, this.#fleet.name));
    const value = this.#made.get(path);
    if (value !== undefined) return found(value);
    return await Promise.resolve({ ok: false, status: 404, code: "ResourceNotFound", message: "" });
  }

  async require(call: ArmCall): Promise<unknown> {
    const result = await this.send(call);
    return result.ok ? result.value : {};
  }

  async list(call: ArmCall): Promise<unknown[]> {
    this.calls.push(call);
    if (!call.path.includes("/skus?")) return await Promise.resolve([]);
    return this.#sizes.map((name) => ({ resourceType: "virtualMachines", name, capabilities: [] }));
  }
}

/** A creation draws other values. */
function withoutSecret(call: ArmCall): ArmCall {
  const { properties } = (call.body ?? {}) as { properties?: Record<string, unknown> };
  const secrets = ["value", "administratorLoginPassword"].filter((name) => properties?.[name] !== undefined);
  if (secrets.length === 0) return call;
  const hidden = Object.fromEntries(secrets.map((name) => [name, "SECRET"]));
  return { ...call, body: { ...call.body, properties: { ...properties, ...hidden } } };
}

function found(value: unknown): ArmResult {
  return { ok: true, value };
}

function replyTo(path: string, body: object, name: string): object {
  const given = (body as { properties?: object }).properties ?? {};
  const added = {
    provisioningState: "Succeeded",
    state: "Ready",
    principalId: "PRINCIPAL-ID",
    nameServers: [],
    ipAddress: "ADDRESS",
  };
  return { id: path, tags: { opensandbox: name }, properties: { ...given, ...added } };
}
