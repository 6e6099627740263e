import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { System } from "../system.ts";

export interface ServerWait<Server> {
  readonly system: System;
  /** The unit of the server's service. */
  readonly unitName: string;
  /** The server, once it listens. */
  readonly find: () => Promise<Server | undefined>;
  /** The wait between two looks. Absent: 500 ms. */
  readonly pollMs?: number;
}

const timeoutMs = 300_000;
const defaultPollMs = 500;
/** A server may fail once beside the one that it replaces. systemd starts it again after 5 s. */
const maxRestarts = 3;

/**
 * Waits until the server of a service listens.
 * @throws `unavailable` with the end of its log when it ends again and again, `timed_out`
 */
export async function waitForServer<Server>(
  { system, unitName, find, pollMs = defaultPollMs }: ServerWait<Server>,
  signal: AbortSignal,
): Promise<Server> {
  const before = await restartsOf(system, unitName);
  for (const deadline = performance.now() + timeoutMs; ;) {
    const server = await find();
    if (server !== undefined) return server;
    if ((await restartsOf(system, unitName)) - before >= maxRestarts) {
      const { stdout } = await system.ask("journalctl", "--unit", unitName, "--no-pager", "--output=cat", "--lines=8");
      const message = `the server ended ${maxRestarts} times in a row. systemd starts it again and again, so it serves when the cause is corrected. Its log ends with:\n${stdout.trimEnd()}`;
      throw new SandboxError("unavailable", message);
    }
    if (performance.now() > deadline) {
      const message = `the server did not answer within ${timeoutMs / 1000} s; 'journalctl --unit ${unitName}' says why`;
      throw new SandboxError("timed_out", message);
    }
    await sleep(pollMs, undefined, { signal });
  }
}

/** How often systemd has started the service again by itself. */
async function restartsOf(system: System, unitName: string): Promise<number> {
  const { stdout } = await system.ask("systemctl", "show", "--property=NRestarts", "--value", unitName);
  return Number(stdout) || 0;
}
