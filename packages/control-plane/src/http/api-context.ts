import type { SandboxPlace } from "@opensandbox/wire/public/sandboxes/sandboxes.ts";
import type { AuditLog } from "../audit/audit-log.ts";
import type { CallRates } from "./requests/call-rates.ts";
import type { OpenCalls } from "./requests/open-calls.ts";
import type { AccessTokens } from "#organizations/access-tokens.ts";
import type { ApiKeyStore } from "#organizations/api-key-store.ts";
import type { Authenticate } from "#organizations/api-keys.ts";
import type { Caller } from "#organizations/caller.ts";
import type { DashboardSessions } from "#organizations/dashboard-sessions.ts";
import type { ImageContext } from "#images/image-context.ts";
import type { HostPorts } from "#previews/host-ports.ts";
import type { DomainProofs } from "#previews/domain-proofs.ts";
import type { PreviewStore } from "#previews/preview-store.ts";
import type { PreviewTargets } from "#previews/preview-target.ts";
import type { SecretRows } from "#secrets/secret-rows.ts";
import type { TemplateContext } from "#templates/template-context.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { HostKey } from "#ssh/host-key.ts";
import type { SshKeyStore } from "#ssh/ssh-key-store.ts";
import type { Webhooks } from "#webhooks/webhooks.ts";

/** A certificate chain and its key, as PEM. */
export interface Tls {
  readonly cert: string;
  readonly key: string;
}

/** The dependencies of the dashboard. */
export interface Dashboard {
  readonly sessions: DashboardSessions;
  /** The directory of the built page. Absent: this server has no dashboard. */
  readonly files: (() => Promise<string>) | undefined;
  organization(caller: Caller): Promise<{ readonly id: string; readonly name: string }>;
}

/** The dependencies of the routes. */
export interface ApiContext {
  readonly sandboxes: SandboxContext;
  readonly images: ImageContext;
  readonly templates: TemplateContext;
  readonly authenticate: Authenticate;
  readonly tokens: AccessTokens;
  readonly callRates: CallRates;
  readonly keys: {
    readonly store: ApiKeyStore;
    /** The server accepts the one key of its configuration, and none of the store. */
    readonly areStatic: boolean;
  };
  readonly audit: AuditLog;
  readonly openCalls: OpenCalls;
  /** Whether a text is a key of this server's API. */
  readonly isApiKey: (text: string) => boolean;
  /** Host names of the API itself, in lower case: none of them leads to a sandbox. */
  readonly apiHostnames: ReadonlySet<string>;
  /** The key that signs URLs, hexadecimal. */
  readonly signingKey: string;
  readonly previews: PreviewStore;
  readonly domainProofs: DomainProofs;
  readonly previewTargets: PreviewTargets;
  readonly hostPorts: HostPorts;
  readonly webhooks: Webhooks;
  readonly secretRows: SecretRows;
  readonly dashboard: Dashboard;
  /** The directory of the built documentation. Absent: this server has none. */
  readonly documentationFiles: (() => Promise<string>) | undefined;
  /** The keys of the SSH gateway, and the gateway while it accepts connections. */
  readonly ssh: {
    readonly keys: SshKeyStore;
    readonly gateway?: { readonly port: number; readonly hostKey: HostKey } | undefined;
  };
  /** Absent: plain HTTP. */
  readonly tls?: Tls | undefined;
  readonly place: SandboxPlace;
  ready(): { readonly ready: boolean; readonly reason?: string };
  readonly timing: Timing;
}

/** Durations of the HTTP side in milliseconds, which tests shorten. */
export interface Timing {
  /** How long run-async waits for a quick command before it answers 202. */
  readonly inlineHoldMs: number;
  /** How long a poll for a result waits. */
  readonly resultHoldMs: number;
  /** How often a silent connection carries a keep-alive. */
  readonly keepAliveMs: number;
  /** How long a browser waits for a wake before it gets a waiting page. */
  readonly previewWaitMs: number;
  /** How long a server in a sandbox may take to begin its answer. */
  readonly previewAnswerMs: number;
}

export const defaultTiming: Timing = {
  inlineHoldMs: 400,
  resultHoldMs: 500,
  keepAliveMs: 15_000,
  previewWaitMs: 1000,
  previewAnswerMs: 60_000,
};
