import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ImageManifest, ImageStep } from "@opensandbox/wire/public/images.ts";
import type { Checkpoint } from "#checkpoints/checkpoint.ts";
import type { CreateSandbox } from "#sandboxes/create-sandbox.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { captureBuild, chunksOf, inHiddenSandbox, runBuildCommand } from "./builder.ts";
import type { BuildLog } from "./image.ts";
import { actionsOf, type StepAction } from "./step-actions.ts";

// The time limit of one step.
const stepTimeoutMs = 300_000;

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
    return captureBuild(context, builder, { name, kind: builderMib === runtimeMib ? "full" : "disk_only" });
  });
  if (builderMib === runtimeMib) return built;
  try {
    onLog({ step: manifest.steps.length, type: "progress", message: `starting the image with ${runtimeMib} MiB` });
    const start: CreateSandbox = { organizationId, sandbox: { ...sandbox, memoryMib: runtimeMib }, checkpoint: built };
    return await inHiddenSandbox(context, { create: start, progress }, signal, (runtime) =>
      captureBuild(context, runtime, { name, kind: "full" }),
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
      return runBuildCommand(sessions, action.command, say, signal);
  }
}

/** A step in the words of the log. */
export function titleOf(step: ImageStep): string {
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
