import { normalName } from "@opensandbox/wire/egress.ts";
import { sandboxIdPattern, type SandboxId } from "@opensandbox/wire/ids.ts";
import { isIP } from "node:net";
import type { Clock } from "../clock.ts";
import { type DomainProofs, withoutProof } from "./domain-proofs.ts";
import type { PreviewStore } from "./preview-store.ts";

/** The port of a sandbox that a host name leads to. */
export interface PreviewTarget {
  readonly sandboxId: SandboxId;
  readonly port: number;
  /** The host name is a custom domain that its organization has not proved: requests fail with this text. */
  readonly refusal?: string;
}

const previewLabel = new RegExp(`^(${sandboxIdPattern.source})-p(\\d{1,5})$`, "i");

/** The sandbox and port of a host name whose first label is `{sandboxId}-p{port}`, whatever follows. Pure. */
export function targetOfHost(host: string | undefined): PreviewTarget | undefined {
  const match = previewLabel.exec(hostnameOf(host).split(".")[0] ?? "");
  const port = Number(match?.[2]);
  if (match === null || port < 1 || port > 65_535) return undefined;
  return { sandboxId: (match[1] ?? "").toLowerCase() as SandboxId, port };
}

/** How long the result of a lookup is remembered, found or not, in milliseconds. */
const rememberMs = 2000;
const maxRemembered = 10_000;

export interface PreviewTargetsOptions {
  readonly store: PreviewStore;
  readonly proofs: DomainProofs;
  readonly apiHostnames: ReadonlySet<string>;
  readonly clock: Clock;
}

/** Finds the sandbox that a host name leads to, custom domains included. Their lookups are cached: each request needs one. */
export class PreviewTargets {
  readonly #store: PreviewStore;
  readonly #proofs: DomainProofs;
  readonly #apiHostnames: ReadonlySet<string>;
  readonly #clock: Clock;
  readonly #known = new Map<string, { readonly target: PreviewTarget | undefined; readonly until: number }>();

  constructor({ store, proofs, apiHostnames, clock }: PreviewTargetsOptions) {
    this.#store = store;
    this.#proofs = proofs;
    this.#apiHostnames = apiHostnames;
    this.#clock = clock;
  }

  /** Undefined: the name is the API's. Returns a promise only when the database must be asked. */
  find(host: string | undefined): PreviewTarget | undefined | Promise<PreviewTarget | undefined> {
    const target = targetOfHost(host);
    if (target !== undefined) return target;
    const hostname = hostnameOf(host);
    if (
      this.#apiHostnames.has(hostname) ||
      hostname === "localhost" ||
      isIP(hostname.replace(/^\[|\]$/g, "")) !== 0 ||
      !hostname.includes(".")
    )
      return undefined;
    const known = this.#known.get(hostname);
    if (known !== undefined && known.until > this.#clock.elapsed()) return known.target;
    return this.#look(hostname);
  }

  /** Drops the cache after a change. */
  forget(): void {
    this.#known.clear();
  }

  async #look(hostname: string): Promise<PreviewTarget | undefined> {
    const name = normalName(hostname);
    const target = name === undefined ? undefined : await this.#targetOf(name);
    if (this.#known.size >= maxRemembered) this.#known.clear();
    this.#known.set(hostname, { target, until: this.#clock.elapsed() + rememberMs });
    return target;
  }

  async #targetOf(hostname: string): Promise<PreviewTarget | undefined> {
    const domain = await this.#store.findDomain(hostname);
    if (domain === undefined) return undefined;
    const { organizationId, sandboxId, port } = domain;
    if (await this.#proofs.holds(domain)) return { sandboxId, port };
    return { sandboxId, port, refusal: withoutProof(hostname, this.#proofs.recordFor(organizationId, hostname)) };
  }
}

/** A `Host` header as a name: without port and final dot, in lower case. */
export function hostnameOf(host: string | undefined): string {
  return (host ?? "").replace(/:\d*$/, "").replace(/\.$/, "").toLowerCase();
}
