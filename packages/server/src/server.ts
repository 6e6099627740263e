import type { WorkerDescription } from "@opensandbox/wire/worker/worker.ts";

/**
 * A control plane and a worker in one process, or one of them alone. Disposing a server with a worker of its own
 * hibernates every running sandbox; an embedded server deletes them instead. Disposing a control plane or a worker of a
 * fleet leaves them running.
 */
export interface Server extends AsyncDisposable {
  /** A worker of a fleet: the address that it gives to its server. */
  readonly url: string;
  /** A valid key, if its plain text is known: the configured key, an embedded server's own, or the stored first key. */
  readonly apiKey?: string;
  /** The database's first key, if this start created it. The database stores only its hash. */
  readonly firstApiKey?: string;
  readonly description: WorkerDescription;
  /** The address of the dashboard, with a code that signs in once, within 15 minutes. Absent: a worker alone. */
  createSignInLink?(): string;
}
