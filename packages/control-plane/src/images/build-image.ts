import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ImageManifest, ImageStep } from "@opensandbox/wire/public/images.ts";
import type { Exec, GuestSessions } from "@opensandbox/wire/worker/sessions.ts";
import { startPrivateCommand } from "#execs/private-command.ts";
import { captureCheckpoint, checkpointOf } from "#checkpoints/create-checkpoint.ts";
import type { Checkpoint, CheckpointKind } from "#checkpoints/checkpoint.ts";
import { createSandbox, type CreateSandbox } from "#sandboxes/create-sandbox.ts";
import { endSandbox } from "#sandboxes/delete-sandbox.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { BuildLog } from "./image.ts";
import { actionsOf, type StepAction } from "./step-actions.ts";

// The time limit of one step.
const stepTimeoutMs = 300_000;
// A failed step is reported with the end of its output.
const keptLines = 50;
const keptLineLength = 2000;

export interface BuildImage {
  readonly organizationId: string;
  /** The name of the checkpoint. */
  readonly name: string;
  readonly manifest: ImageManifest;
}

/**
 * Builds an image in a hidden sandbox and returns its checkpoint, captured with as much memory as sandboxes from it have.
 * @throws `invalid_argument` with the output of a step that fails; nothing is left then
 */
export async function buildImage(
  context: SandboxContext,
  { organizationId, name, manifest }: BuildImage,
  onLog: (log: BuildLog) => void,
  signal: AbortSignal,
): Promise<Checkpoint> {
  const runtimeMib = manifest.runtimeMemoryMB ?? context.settings.defaults.memoryMib;
  const builderMib = manifest.builderMemoryMB ?? runtimeMib;
  const sandbox = { image: baseOf(manifest), envs: {}, metadata: {}, alias: "", networkEnabled: true };
  const progress = ({ step }: { readonly step: string }): void => onLog({ step: 0, type: "progress", message: step });

  const build: CreateSandbox = { organizationId, sandbox: { ...sandbox, memoryMib: builderMib } };
  const built = await inHiddenSandbox(context, { create: build, progress }, signal, async (builder) => {
    await runSteps(context, builder, manifest.steps, onLog, signal);
    return capture(context, builder, { name, kind: builderMib === runtimeMib ? "full" : "disk_only" });
  });
  if (builderMib === runtimeMib) return built;
  try {
    onLog({ step: manifest.steps.length, type: "progress", message: `starting the image with ${runtimeMib} MiB` });
    const start: CreateSandbox = { organizationId, sandbox: { ...sandbox, memoryMib: runtimeMib }, checkpoint: built };
    return await inHiddenSandbox(context, { create: start, progress }, signal, (runtime) =>
      capture(context, runtime, { name, kind: "full" }),
    );
  } finally {
    await context.stores.checkpoints.remove(built);
    await context.snapshots.removeUnwanted();
  }
}

/** The name of the image that the steps start from. */
export function baseOf({ base }: ImageManifest): string {
  return base === "" || base === "base" ? "default" : base;
}

/** Runs work in a hidden sandbox, and then removes every trace of the sandbox, its row included. */
async function inHiddenSandbox<T>(
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

async function capture(
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

async function runSteps(
  context: SandboxContext,
  sandbox: Sandbox,
  steps: readonly ImageStep[],
  onLog: (log: BuildLog) => void,
  signal: AbortSignal,
): Promise<void> {
  let workdir: string | undefined;
  for (const [index, step] of steps.entries()) {
    const number = index + 1;
    const say = (message: string): void => onLog({ step: number, type: step.type, message });
    say(`step ${number} of ${steps.length}: ${titleOf(step)}`);
    const until = AbortSignal.any([signal, AbortSignal.timeout(stepTimeoutMs)]);
    for (const action of actionsOf(step, workdir)) {
      try {
        await act(context, sandbox, action, say, until);
      } catch (error) {
        signal.throwIfAborted();
        const why = until.aborted ? `it took longer than ${stepTimeoutMs / 1000} seconds` : messageOf(error);
        const message = `step ${number} (${step.type}) failed: ${why}`;
        throw new SandboxError("invalid_argument", message, { cause: error });
      }
    }
    if (step.type === "workdir") workdir = step.args.path;
  }
}

async function act(
  { worker }: SandboxContext,
  { id }: Sandbox,
  action: StepAction,
  say: (message: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const { sessions, files } = worker.guest(id);
  switch (action.kind) {
    case "directory":
      return files.makeDirectory(action.path, signal);
    case "file":
      await files.write(action.path, chunksOf(action.content), {}, signal);
      return;
    case "command":
      return runCommand(sessions, action.command, say, signal);
  }
}

async function runCommand(
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

async function* chunksOf(content: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < content.length; at += chunkBytes) {
    await Promise.resolve();
    yield content.subarray(at, at + chunkBytes);
  }
}

function titleOf(step: ImageStep): string {
  switch (step.type) {
    case "apt_install":
    case "pip_install":
      return `${step.type} ${step.args.packages.join(" ")}`;
    case "run":
      return `run ${step.args.commands.join("; ").slice(0, 200)}`;
    case "env":
      return `env ${Object.keys(step.args.vars).join(" ")}`;
    case "workdir":
    case "add_file":
    case "add_dir":
      return `${step.type} ${step.args.path}`;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
