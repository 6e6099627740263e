import { createHmac } from "node:crypto";
import { Resolver } from "node:dns/promises";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import { SingleFlight } from "../single-flight.ts";
import type { CustomDomain, PreviewStore } from "./preview-store.ts";
import type { DomainRecord } from "./preview.ts";

/** `dns`: a TXT record proves that a domain is its organization's. `none`: every organization may use every domain. */
export type DomainProof = "dns" | "none";

/** The strings of each TXT record of a name, as `Resolver.resolveTxt` in Node's `dns` returns and rejects. */
export type ResolveTxt = (name: string) => Promise<readonly (readonly string[])[]>;

export interface DomainProofsOptions {
  readonly proof: DomainProof;
  /** The key that values of records are derived from, hexadecimal. */
  readonly key: string;
  readonly store: PreviewStore;
  readonly clock: Clock;
  readonly log: Log;
  /** Default: the name servers of this host. */
  readonly resolveTxt?: ResolveTxt | undefined;
}

/** After this time a use looks the record up again, in the background. */
const recheckMs = 3_600_000;

/** A domain is served for this long after the last proof while its name servers do not answer. */
const graceMs = 72 * 3_600_000;

/** A use of a domain without proof looks the record up again after this time. */
const retryMs = 60_000;

const maxRemembered = 10_000;

type Found = "proved" | "missing" | { readonly failure: string };

/**
 * Proves that custom domains belong to the organizations that use them, by a TXT record whose value only the
 * organization's own reply names. A record that vanishes ends the use of its domain at the next look, within an hour.
 */
export class DomainProofs {
  readonly #options: DomainProofsOptions;
  readonly #resolveTxt: ResolveTxt;
  readonly #checks = new SingleFlight<string, Found>();
  /** When a domain without proof may be looked up again. */
  readonly #retryAt = new Map<string, number>();

  constructor(options: DomainProofsOptions) {
    this.#options = options;
    this.#resolveTxt = options.resolveTxt ?? hostResolver;
  }

  get required(): boolean {
    return this.#options.proof === "dns";
  }

  /** The record that proves a domain. The value is the same for all domains of an organization. */
  recordFor(organizationId: string, hostname: string): DomainRecord {
    const value = createHmac("sha256", this.#options.key).update(organizationId).digest("hex").slice(0, 32);
    return { type: "TXT", name: `_opensandbox.${hostname}`, value: `opensandbox=${value}` };
  }

  /**
   * Looks the record up now. Returns when the proof was found; undefined where none is required.
   * @throws `invalid_argument` with the record to make, `unavailable` when no name server answers
   */
  async prove(organizationId: string, hostname: string): Promise<Date | undefined> {
    if (!this.required) return undefined;
    const record = this.recordFor(organizationId, hostname);
    const found = await this.#look(record);
    if (found === "proved") return new Date(this.#options.clock.now());
    if (found === "missing") throw new SandboxError("invalid_argument", `domain: ${withoutProof(hostname, record)}`);
    throw new SandboxError(
      "unavailable",
      `domain: the DNS record ${record.name} cannot be looked up (${found.failure}): try again`,
    );
  }

  /** Whether the domain may be served: by the last proof when it is recent enough, and otherwise by a look at the record. */
  async holds(domain: CustomDomain): Promise<boolean> {
    if (!this.required) return true;
    const { hostname, provedAt } = domain;
    const now = this.#options.clock.now();
    const age = provedAt === undefined ? Infinity : now - provedAt.getTime();
    if (age < recheckMs) return true;
    const mayLook = (this.#retryAt.get(hostname) ?? 0) <= now;
    if (age < graceMs) {
      if (mayLook) void this.#check(domain);
      return true;
    }
    return mayLook && (await this.#check(domain)) === "proved";
  }

  /** Whether the present owner of a domain has lost its proof, so that another organization may have it. */
  async isAbandoned(domain: CustomDomain): Promise<boolean> {
    return this.required && (await this.#check(domain)) === "missing";
  }

  /** Looks the record up and stores the result. A domain without proof is looked up again after {@link retryMs}. */
  async #check(domain: CustomDomain): Promise<Found> {
    const { hostname, organizationId } = domain;
    return await this.#checks.run(hostname, async () => {
      const { store, clock, log } = this.#options;
      const found = await this.#look(this.recordFor(organizationId, hostname));
      try {
        if (found === "proved") {
          await store.setProvedAt(domain, new Date(clock.now()));
          this.#retryAt.delete(hostname);
          return found;
        }
        if (this.#retryAt.size >= maxRemembered) this.#retryAt.clear();
        this.#retryAt.set(hostname, clock.now() + retryMs);
        if (found === "missing" && domain.provedAt !== undefined) {
          await store.setProvedAt(domain, undefined);
          log("warn", "a custom domain is not served any more: its DNS record has vanished", {
            hostname,
            organization: organizationId,
          });
        }
      } catch (error) {
        log("error", "cannot store the proof of a custom domain", { hostname, ...describeError(error) });
      }
      return found;
    });
  }

  async #look({ name, value }: DomainRecord): Promise<Found> {
    try {
      const records = await this.#resolveTxt(name);
      return records.some((strings) => strings.join("") === value) ? "proved" : "missing";
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      // NXDOMAIN, and a name without TXT records.
      if (code === "ENOTFOUND" || code === "ENODATA") return "missing";
      return { failure: code ?? message };
    }
  }
}

/** What the owner of a domain has to do. */
export function withoutProof(hostname: string, { type, name, value }: DomainRecord): string {
  return `${hostname} is not verified: make the DNS record ${name} ${type} "${value}" and try again`;
}

/** The name servers may have changed since the last look, so each one reads the host's configuration. */
async function hostResolver(name: string): Promise<readonly (readonly string[])[]> {
  return await new Resolver({ timeout: 2000, tries: 2 }).resolveTxt(name);
}
