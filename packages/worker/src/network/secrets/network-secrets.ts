import { type HeaderRule, headersFor } from "@opensandbox/wire/header-rules.ts";
import { matchesHost } from "@opensandbox/wire/secret-hosts.ts";
import type { SandboxSecrets, SealedSecret } from "@opensandbox/wire/worker/worker.ts";
import type { Interception } from "../web/secret-proxy.ts";
import { LeafCertificates } from "./leaf-certificates.ts";

/** The secrets of one network, and what the guest-facing services may know of them. */
export class NetworkSecrets {
  /** Whether the sandbox uses secrets, known or not. */
  readonly areUsed: boolean;
  /** Every host that a secret may be sent to. */
  readonly hosts: readonly string[];
  readonly #secrets: readonly SealedSecret[];
  readonly #certificates: LeafCertificates | undefined;
  readonly #authorities: string;

  /** @param authorities those that hosts may have, besides the well-known ones; PEM */
  constructor(secrets: SandboxSecrets | undefined, authorities: string) {
    this.areUsed = secrets !== undefined;
    this.#secrets = secrets?.secrets ?? [];
    this.#certificates = secrets?.authority && new LeafCertificates(secrets.authority);
    this.#authorities = authorities;
    this.hosts = [...new Set(this.#secrets.flatMap(({ hosts }) => hosts))];
  }

  /**
   * The services ask for a host of the guest's choice: they get the values and headers that it may have, and no other.
   * @param rules the headers of requests
   */
  async intercept(
    name: string,
    rules: readonly HeaderRule[] = [],
  ): Promise<Interception | { readonly refusal: string }> {
    const hosts = [...this.hosts, ...rules.map(({ host }) => host)];
    if (this.#certificates === undefined || !matchesHost(hosts, name)) {
      return { refusal: "no secret and no header is for this host" };
    }
    const leaf = await this.#certificates.of(name);
    return {
      ...leaf,
      authorities: this.#authorities,
      headers: headersFor(rules, name),
      secrets: this.#secrets.map(({ name: title, sealed, value, hosts }) => ({
        ...{ name: title, sealed },
        ...(matchesHost(hosts, name) ? { value } : {}),
      })),
    };
  }
}
