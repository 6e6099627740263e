import type { Authenticate } from "#organizations/api-keys.ts";
import type { ImageContext } from "#images/image-context.ts";
import type { SandboxContext } from "#sandboxes/sandbox-context.ts";

/** What the routes work with. */
export interface ApiContext {
  readonly sandboxes: SandboxContext;
  readonly images: ImageContext;
  readonly authenticate: Authenticate;
  /** What URLs are signed with, hexadecimal. */
  readonly signingKey: string;
  readonly place: { readonly region: string; readonly sandboxDomain: string };
  ready(): { readonly ready: boolean; readonly reason?: string };
  readonly timing: Timing;
}

/** Milliseconds that the HTTP side waits; tests wait less. */
export interface Timing {
  /** How long run-async holds the request for a quick command. */
  readonly inlineHoldMs: number;
  /** How long a poll for a result waits. */
  readonly resultHoldMs: number;
  /** How often something is sent where nothing happens. */
  readonly keepAliveMs: number;
}

export const defaultTiming: Timing = { inlineHoldMs: 400, resultHoldMs: 500, keepAliveMs: 15_000 };
