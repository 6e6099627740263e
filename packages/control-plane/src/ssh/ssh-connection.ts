import type { Socket } from "node:net";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Identity } from "./authenticate.ts";
import type { SocketGuard } from "./guard-socket.ts";

/** A connection that has authenticated. */
export interface SshConnection {
  readonly sandboxes: SandboxContext;
  readonly identity: Identity;
  readonly socket: Socket;
  readonly guard: SocketGuard;
}
