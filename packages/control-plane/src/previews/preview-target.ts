import { normalName } from "@opensandbox/wire/egress.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { isIP } from "node:net";
import type { PreviewStore } from "./preview-store.ts";

/** What a request for a host name is meant for, other than this server's own API. */
export interface PreviewTarget {
  readonly sandboxId: SandboxId;
  readonly port: number;
}

/** `{sandboxId}-p{port}` as the first label of any name. Pure. */
export function targetOfHost(host: string | undefined): PreviewTarget | undefined {
  const match = /^(sb-[0-9a-f]{8})-p(\d{1,5})$/i.exec(hostnameOf(host).split(".")[0] ?? "");
  const port = Number(match?.[2]);
  if (match === null || port < 1 || port > 65_535) return undefined;
  return { sandboxId: (match[1] ?? "").toLowerCase() as SandboxId, port };
}

/** How long it is remembered where a name leads, and that it leads nowhere, in milliseconds. */
const rememberMs = 2000;
const maxRemembered = 10_000;

/** Also finds names of the users' own. Those change seldom, and are looked for with every request that has one. */
export class PreviewTargets {
  readonly #store: PreviewStore;
  readonly #known = new Map<string, { readonly target: PreviewTarget | undefined; readonly until: number }>();

  constructor(store: PreviewStore) {
    this.#store = store;
  }

  /** Undefined: it is for the API. Does not wait where that is plain. */
  find(host: string | undefined): PreviewTarget | undefined | Promise<PreviewTarget | undefined> {
    const target = targetOfHost(host);
    if (target !== undefined) return target;
    const hostname = hostnameOf(host);
    if (hostname === "localhost" || isIP(hostname.replace(/^\[|\]$/g, "")) !== 0 || !hostname.includes("."))
      return undefined;
    const known = this.#known.get(hostname);
    if (known !== undefined && known.until > performance.now()) return known.target;
    return this.#look(hostname);
  }

  /** A name may lead elsewhere from now on. */
  forget(): void {
    this.#known.clear();
  }

  async #look(hostname: string): Promise<PreviewTarget | undefined> {
    const name = normalName(hostname);
    const target = name === undefined ? undefined : await this.#store.findTarget(name);
    if (this.#known.size >= maxRemembered) this.#known.clear();
    this.#known.set(hostname, { target, until: performance.now() + rememberMs });
    return target;
  }
}

/** Without the port, in lower case. */
export function hostnameOf(host: string | undefined): string {
  return (host ?? "").replace(/:\d*$/, "").replace(/\.$/, "").toLowerCase();
}
