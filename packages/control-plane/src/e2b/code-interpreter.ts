import { describeError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { startPrivateCommand } from "#execs/private-command.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { E2bContext } from "./e2b-context.ts";
import { accountOf, prepareGuest } from "./guest-user.ts";

/** Clients of E2B's code interpreter call its server on this port. */
export const interpreterPort = 49_999;

/** The agent disk of every guest has it: images/agent/code-interpreter. */
const program = "/run/opensandbox/bin/code-interpreter";

/** A processor that is emulated, or shared by many machines, takes seconds to start Python. */
const startWithinMs = 90_000;

/** Starts the code interpreter of a sandbox unless something listens on its port. The sandbox must run. */
export async function startInterpreter(
  context: Pick<E2bContext, "sandboxes" | "prepared">,
  sandbox: Pick<Sandbox, "id" | "generation">,
  signal: AbortSignal,
): Promise<void> {
  const { worker, log } = context.sandboxes;
  const { sessions, ports } = worker.guest(sandbox.id);
  try {
    const connection = await ports.open(interpreterPort, signal);
    return await connection.end();
  } catch (error) {
    if (!isSandboxError(error, "not_found")) throw error;
  }
  try {
    await prepareGuest(context, sandbox, signal);
    const { name, home } = await accountOf(context, sandbox.id, undefined, signal);
    const command = { argv: [program, "start"], user: name, cwd: home, timeoutMs: startWithinMs } as const;
    const { output, result } = await startPrivateCommand(sessions, { ...command, argv: [...command.argv] }, signal);
    let text = "";
    for await (const part of output) if (part !== "scrollback end") text += Buffer.from(part.bytes).toString("utf8");
    const { exitCode, signal: killedBy } = (await result).end;
    if (exitCode === 0 && killedBy === 0) return;
    throw new SandboxError("unavailable", `exit code ${exitCode}, signal ${killedBy}: ${text.trim().slice(-500)}`);
  } catch (error) {
    signal.throwIfAborted();
    // The client learns that the port is closed: the image may have no Python.
    log("warn", "cannot start the code interpreter of a sandbox", { sandbox: sandbox.id, ...describeError(error) });
  }
}
