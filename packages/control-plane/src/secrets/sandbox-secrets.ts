import { createHmac } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { commonHosts } from "@opensandbox/wire/secret-hosts.ts";
import type { SandboxSecrets, SealedSecret } from "@opensandbox/wire/worker/worker.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { makeGuestAuthority } from "./guest-authority.ts";
import type { SecretRows } from "./secret-rows.ts";

type UsesSecrets = Pick<Sandbox, "organizationId" | "secretStores" | "authorityId">;

/** The secrets of a store under their sealed texts. */
interface ReadStore {
  readonly name: string;
  readonly hosts: readonly string[];
  readonly secrets: readonly SealedSecret[];
}

/** What sandboxes get of their stores. */
export class SecretsOfSandboxes {
  readonly #rows: SecretRows;
  readonly #sealingKey: string;

  /** @param sealingKey makes the sealed texts; 256 bits, hexadecimal */
  constructor(rows: SecretRows, sealingKey: string) {
    this.#rows = rows;
    this.#sealingKey = sealingKey;
  }

  /** A new authority for a sandbox whose requests the proxy changes. */
  async makeAuthority(now: Date): Promise<string> {
    return await this.#rows.addAuthority(await makeGuestAuthority(now.getTime()), now);
  }

  /** Undefined for a sandbox whose guest trusts no authority. Stores that were deleted since are left out. */
  async of({ organizationId, secretStores, authorityId }: UsesSecrets): Promise<SandboxSecrets | undefined> {
    if (authorityId === undefined) return undefined;
    const stores = await this.stores({ organizationId, secretStores });
    // A later store takes precedence.
    const byName = new Map(stores.flatMap(({ secrets }) => secrets.map((secret) => [secret.name, secret] as const)));
    return { authority: await this.#rows.authority(authorityId), secrets: [...byName.values()] };
  }

  /** The stores of a sandbox, in the order of their precedence. */
  async stores({ organizationId, secretStores = [] }: Omit<UsesSecrets, "authorityId">): Promise<readonly ReadStore[]> {
    const stores = await this.#rows.read(organizationId, secretStores);
    return stores.map((store) => ({
      name: store.name,
      hosts: store.hosts,
      secrets: store.secrets.map(({ name, value, hosts }) => ({
        ...{ name, value, sealed: this.#sealed(store.id, name), hosts: commonHosts(hosts, store.hosts) },
      })),
    }));
  }

  /**
   * The text that guests have in place of a secret's value. It is the same in every sandbox of the store and for every
   * value, so that a fork, a wake and a new value need no new environment.
   */
  #sealed(storeId: string, name: string): string {
    const digest = createHmac("sha256", Buffer.from(this.#sealingKey, "hex"))
      .update(`${storeId}/${name}`)
      .digest("hex");
    return `osb_sealed_${digest.slice(0, 32)}`;
  }
}

/** The variables with which a guest finds its secrets. */
export function sealedEnvironment(secrets: SandboxSecrets | undefined): Readonly<Record<string, string>> {
  return Object.fromEntries((secrets?.secrets ?? []).map(({ name, sealed }) => [name, sealed]));
}

/** @throws `not_supported` when this server's workers cannot put secrets into requests */
export function requireSecretsSupport({
  description,
}: {
  readonly description: { readonly secrets?: true; readonly network: { readonly reason: string } };
}): void {
  if (description.secrets === true) return;
  const message = `this server cannot put secrets into requests, so no sandbox can use a secret store: ${description.network.reason}`;
  throw new SandboxError("not_supported", message);
}
