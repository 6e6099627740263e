import { newSandboxId } from "@opensandbox/wire/ids.ts";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Progress, StartFrom } from "@opensandbox/wire/worker/worker.ts";
import { applyPatches } from "#checkpoints/apply-patches.ts";
import type { Checkpoint } from "#checkpoints/checkpoint.ts";
import { markRunning, startOnWorker, type Started } from "#lifecycle/start-on-worker.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { limitReached } from "./sandbox-store.ts";
import type { NewSandbox, Sandbox } from "./sandbox.ts";

export interface CreateSandbox {
  readonly organizationId: string;
  readonly sandbox: NewSandbox;
  /** What it is a fork of. Absent: it starts from its image. */
  readonly checkpoint?: Checkpoint;
  /** Builds an image; no user sees it. */
  readonly hidden?: boolean;
  /** The same key gives the same sandbox, for {@link keyLifetimeMs}. */
  readonly idempotencyKey?: string | undefined;
}

export interface CreatedSandbox extends Started {
  /** It was there already, by its idempotency key. */
  readonly repeated: boolean;
}

/** Longer than any caller goes on with one create; after it the same key is that of another one. */
const keyLifetimeMs = 24 * 3_600_000;

/** Returns when a command would work. After a failure, or when the signal is aborted, nothing is left. */
export async function createSandbox(
  context: SandboxContext,
  request: CreateSandbox,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<CreatedSandbox> {
  if (request.checkpoint === undefined) requireImage(context, request.sandbox.image);
  for (;;) {
    const earlier = await findEarlier(context, request, signal);
    if (earlier !== undefined) return { sandbox: earlier, spans: [], repeated: true };

    const sandbox = sandboxOf(context, request);
    const created = await context.operations.gates.run(sandbox.id, async () => {
      const added = await context.store.add(sandbox, context.settings.maxSandboxes);
      if (added === "limit reached") throw limitReached(context.settings.maxSandboxes);
      return added === "added" ? start(context, { sandbox, request, onProgress }, signal) : undefined;
    });
    if (created !== undefined) return created;
  }
}

export function requireImage({ worker }: SandboxContext, image: string): void {
  const { images } = worker.description;
  if (images.includes(image)) return;
  const known = images.flatMap((name) => (name === "default" ? ["base", "default"] : [name])).join(", ");
  throw new SandboxError("not_found", `template "${image}" not found: there are ${known}`, {
    resource: "image",
    id: image,
  });
}

/** The sandbox of the same idempotency key, when it is known whether its create succeeds. */
async function findEarlier(
  { store, clock, operations: { gates } }: SandboxContext,
  { organizationId, idempotencyKey }: CreateSandbox,
  signal: AbortSignal,
): Promise<Sandbox | undefined> {
  if (idempotencyKey === undefined) return undefined;
  const earlier = await store.findByKey(organizationId, idempotencyKey);
  if (earlier === undefined) return undefined;
  if (clock.now() - earlier.createdAt.getTime() >= keyLifetimeMs) {
    await store.update(earlier.id, { idempotencyKey: undefined });
    return undefined;
  }
  await gates.open(earlier.id, signal);
  return store.find(earlier.id);
}

function sandboxOf(
  { worker, clock, settings: { defaults, ephemeral } }: SandboxContext,
  request: CreateSandbox,
): Sandbox {
  return {
    ...defaults,
    ...request.sandbox,
    ephemeral: ephemeral || (request.sandbox.ephemeral ?? false),
    id: newSandboxId(),
    organizationId: request.organizationId,
    idempotencyKey: request.idempotencyKey,
    state: "creating",
    generation: 1,
    workerId: worker.id,
    hidden: request.hidden ?? false,
    createdAt: new Date(clock.now()),
    fromCheckpointId: request.checkpoint?.id,
    lastPatchSequence: 0,
    bootsOnUse: false,
    tags: {},
    scalingLocked: false,
  };
}

interface Start {
  readonly sandbox: Sandbox;
  readonly request: CreateSandbox;
  readonly onProgress: (progress: Progress) => void;
}

async function start(
  context: SandboxContext,
  { sandbox, request, onProgress }: Start,
  signal: AbortSignal,
): Promise<CreatedSandbox> {
  await using undo = new AsyncDisposableStack();
  undo.defer(() => undoCreate(context, sandbox));

  const { checkpoint } = request;
  using _ = checkpoint === undefined ? undefined : context.snapshots.use(checkpoint.snapshotId);
  const started = await startOnWorker(context, sandbox, startFrom(request), signal, onProgress);
  signal.throwIfAborted();
  const patched = await applyPatches(context, sandbox, signal);
  signal.throwIfAborted();
  const running = await markRunning(context, patched, started);
  undo.move();
  const { spans, ...restored } = started;
  context.log("info", "sandbox created", { sandbox: sandbox.id, image: sandbox.image, ...restored, spans });
  return { sandbox: running, spans, repeated: false };
}

function startFrom({ checkpoint, sandbox }: CreateSandbox): StartFrom {
  return checkpoint === undefined
    ? { kind: "image", image: sandbox.image }
    : { kind: "snapshot", snapshotId: checkpoint.snapshotId, identity: "new", public: checkpoint.isPublic };
}

async function undoCreate(context: SandboxContext, sandbox: Sandbox): Promise<void> {
  context.activity.forget(sandbox.id);
  try {
    await context.worker.stopSandbox(sandbox.id);
  } catch (error) {
    // The row stays, so that what is left of the sandbox can be seen and deleted again.
    context.log("error", "a sandbox that did not start could not be removed", {
      sandbox: sandbox.id,
      ...describeError(error),
    });
    const endReason = "it did not start and could not be removed";
    await context.store.move(sandbox, "failed", {
      endedAt: new Date(context.clock.now()),
      endReason,
      idempotencyKey: undefined,
    });
    return;
  }
  await context.store.remove(sandbox.id);
}
