import { z } from "zod";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { type Remote, runRemote } from "../../install/remote.ts";
import type { RollingWorker, RollOperator } from "./roll-workers.ts";

const report = z.array(
  z.object({
    // Part of a command line of the server's shell.
    id: z.string().regex(/^[\w-]+$/),
    url: z.url(),
    state: z.enum(["up", "silent"]),
    draining: z.boolean(),
    left: z.object({ sandboxes: z.number(), snapshots: z.number() }).exactOptional(),
  }),
);

/** The workers of the fleet whose server `remote` is. @throws `unavailable` when ssh or the server does not answer */
export async function listRemoteWorkers(remote: Remote, signal: AbortSignal): Promise<readonly RollingWorker[]> {
  const printed = await runRemote(remote, "sudo osb admin workers --json", {}, signal);
  try {
    return report.parse(JSON.parse(printed));
  } catch (cause) {
    const message = `the server on ${remote.address} printed no list of workers: ${printed.slice(0, 200)}`;
    throw new SandboxError("unavailable", message, { cause });
  }
}

/** Operates a fleet by the commands of its server, over ssh. */
export function remoteOperator(remote: Remote, signal: AbortSignal): RollOperator {
  const run = async (words: string): Promise<void> =>
    void (await runRemote(remote, `sudo osb admin ${words}`, {}, signal));
  return {
    listWorkers: async () => await listRemoteWorkers(remote, signal),
    drainWorker: async (id) => await run(`drain ${id} --no-wait`),
    removeWorker: async (id) => await run(`remove-worker ${id}`),
  };
}
