import type { SandboxPlace } from "@opensandbox/wire/public/sandboxes/sandboxes.ts";
import type { Authenticate } from "#organizations/api-keys.ts";
import type { ImageContext } from "#images/image-context.ts";
import type { HostPorts } from "#previews/host-ports.ts";
import type { PreviewStore } from "#previews/preview-store.ts";
import type { PreviewTargets } from "#previews/preview-target.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Tls } from "./make-server.ts";

/** What the routes work with. */
export interface ApiContext {
  readonly sandboxes: SandboxContext;
  readonly images: ImageContext;
  readonly authenticate: Authenticate;
  /** What URLs are signed with, hexadecimal. */
  readonly signingKey: string;
  readonly previews: PreviewStore;
  readonly previewTargets: PreviewTargets;
  readonly hostPorts: HostPorts;
  /** Absent: plain HTTP. */
  readonly tls?: Tls | undefined;
  readonly place: SandboxPlace;
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
  /** How long a browser waits for a sandbox that sleeps before it is given a page to look at. */
  readonly previewWaitMs: number;
  /** How long a server in a sandbox may take to begin an answer. */
  readonly previewAnswerMs: number;
}

export const defaultTiming: Timing = {
  inlineHoldMs: 400,
  resultHoldMs: 500,
  keepAliveMs: 15_000,
  previewWaitMs: 1000,
  previewAnswerMs: 60_000,
};
