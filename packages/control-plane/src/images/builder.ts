import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Exec, GuestSessions } from "@opensandbox/wire/worker/sessions.ts";
import { startPrivateCommand } from "#execs/private-command.ts";
import { captureCheckpoint, checkpointOf } from "#checkpoints/create-checkpoint.ts";
import type { Checkpoint, CheckpointKind } from "#checkpoints/checkpoint.ts";
import { createSandbox, type CreateSandbox } from "#sandboxes/create-sandbox.ts";
import { endSandbox } from "#sandboxes/delete-sandbox.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";

// A failed step is reported with the end of its output.
const keptLines = 50;
const keptLineLength = 2000;

/** Runs work in a hidden sandbox, and then removes every trace of the sandbox, its row included. */
export async function inHiddenSandbox<T>(
  context: SandboxContext,
  { create, progress }: { create: CreateSandbox; progress: Parameters<typeof createSandbox>[2] },
  signal: AbortSignal,
  work: (sandbox: Sandbox) => Promise<T>,
): Promise<T> {
  const request = { ...create, sandbox: { ...create.sandbox, idleTimeoutSeconds: 0 }, hidden: true };
  const { sandbox } = await createSandbox(context, request, progress, signal);
  await using undo = new AsyncDisposableStack();
  undo.defer(() =>
    context.operations.gates.run(sandbox.id, async () => {
      const left = await context.stores.sandboxes.find(sandbox.id);
      if (left !== undefined) await endSandbox(context, left, { reason: "expired", endReason: "the image was built" });
      await context.stores.sandboxes.remove(sandbox.id);
    }),
  );
  return await work(sandbox);
}

/** Captures the sandbox of a build as a hidden checkpoint. */
export async function captureBuild(
  context: SandboxContext,
  sandbox: Sandbox,
  { name, kind }: { readonly name: string; readonly kind: CheckpointKind },
): Promise<Checkpoint> {
  const checkpoint = checkpointOf(context, sandbox, { name, kind, promoteToFull: false });
  await context.stores.checkpoints.add(checkpoint);
  try {
    await context.operations.gates.run(sandbox.id, () => captureCheckpoint(context, checkpoint));
  } catch (error) {
    await context.stores.checkpoints.remove(checkpoint);
    throw error;
  }
  return { ...checkpoint, status: "ready" };
}

/**
 * Runs a command of a build to its end and reports its output line by line.
 * @throws `invalid_argument` with the end of its output when it fails
 */
export async function runBuildCommand(
  sessions: GuestSessions,
  command: Exec,
  say: (message: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const { output, result } = await startPrivateCommand(sessions, command, signal);
  const last: string[] = [];
  const lines = new Lines((line) => {
    say(line);
    last.push(line);
    if (last.length > keptLines) last.shift();
  });
  for await (const part of output) if (part !== "scrollback end") lines.take(part.bytes);
  lines.end();
  const { exitCode, signal: killedBy } = (await result).end;
  if (exitCode === 0 && killedBy === 0) return;
  const how = killedBy === 0 ? `exit code ${exitCode}` : `signal ${killedBy}`;
  throw new SandboxError("invalid_argument", [how, ...last].join("\n"));
}

/** Splits output that arrives in pieces into lines. */
class Lines {
  readonly #onLine: (line: string) => void;
  readonly #decoder = new TextDecoder();
  #partial = "";

  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  take(bytes: Uint8Array): void {
    const lines = (this.#partial + this.#decoder.decode(bytes, { stream: true })).split(/\r?\n|\r/);
    this.#partial = (lines.pop() ?? "").slice(0, keptLineLength);
    for (const line of lines) this.#say(line);
  }

  end(): void {
    this.#say(this.#partial);
  }

  #say(line: string): void {
    if (line !== "") this.#onLine(line.slice(0, keptLineLength));
  }
}

// A frame of the agent channel is not larger.
const chunkBytes = 65_536;

/** The chunks in which content is written to a guest. */
export async function* chunksOf(content: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < content.length; at += chunkBytes) {
    await Promise.resolve();
    yield content.subarray(at, at + chunkBytes);
  }
}
