import type { SandboxId } from "@opensandbox/wire/ids.ts";

/** A port of a sandbox that has been given a name. Ports without one are reached as well. */
export interface Preview {
  /** A UUID. */
  readonly id: string;
  readonly sandboxId: SandboxId;
  readonly organizationId: string;
  readonly port: number;
  /** A host name of the user's that leads to it. */
  readonly customHostname?: string | undefined;
  readonly createdAt: Date;
}
