import { newSandboxId, type SandboxId } from "@opensandbox/wire/ids.ts";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Progress, StartFrom } from "@opensandbox/wire/worker/worker.ts";
import { applyPatches } from "#checkpoints/apply-patches.ts";
import type { Checkpoint } from "#checkpoints/checkpoint.ts";
import { limitsOf } from "#lifecycle/limits-of.ts";
import { markRunning, startOnWorker, type Started } from "#lifecycle/start-on-worker.ts";
import { requireSecretsSupport } from "#secrets/sandbox-secrets.ts";
import { isImageReference, parseImageReference } from "@opensandbox/wire/worker/image-reference.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { requireDisk } from "./disk-limits.ts";
import type { NewSandbox, Sandbox } from "./sandbox.ts";

export interface CreateSandbox {
  readonly organizationId: string;
  readonly sandbox: NewSandbox;
  /** The checkpoint to fork. Absent: the sandbox starts from its image. */
  readonly checkpoint?: Checkpoint;
  /** The sandbox builds an image and is invisible to users. */
  readonly hidden?: boolean;
  /** Creates with the same key return the same sandbox, for {@link keyLifetimeMs}. */
  readonly idempotencyKey?: string | undefined;
}

export interface CreatedSandbox extends Started {
  /** An earlier create with the same idempotency key made it. */
  readonly repeated: boolean;
}

/** Exceeds the time for which a client retries one create. Afterwards the key may be used for another sandbox. */
const keyLifetimeMs = 24 * 3_600_000;

/** Creates a sandbox and returns when it accepts commands. A failure, or an abort of the signal, leaves nothing behind. */
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

    await requireDisk(context, request.organizationId);
    const authorityId = await authorityOf(context, request);
    const sandbox = await placed(context, request, { ...sandboxOf(context, request), authorityId });
    const created = await context.operations.gates.run(sandbox.id, async () => {
      const limits = await limitsOf(context, request.organizationId);
      const added = await context.stores.sandboxes.add(sandbox, limits, parentOf(request));
      return added === "added" ? start(context, { sandbox, request, onProgress }, signal) : undefined;
    });
    if (created !== undefined) return created;
  }
}

/** @throws `not_found` for an image that no worker has a recipe for; `invalid_argument` for a malformed reference */
export function requireImage({ worker }: SandboxContext, image: string): void {
  const { images } = worker.description;
  if (images.includes(image)) return;
  if (isImageReference(image)) {
    // The worker finds out whether the registry has it.
    parseImageReference(image);
    return;
  }
  const known = images.flatMap((name) => (name === "default" ? ["base", "default"] : [name])).join(", ");
  throw new SandboxError("not_found", `template "${image}" not found: this server has ${known}`, {
    resource: "image",
    id: image,
  });
}

/** The sandbox of an earlier create with the same idempotency key, once that create has finished. */
async function findEarlier(
  { stores, clock, operations: { gates } }: SandboxContext,
  { organizationId, idempotencyKey }: CreateSandbox,
  signal: AbortSignal,
): Promise<Sandbox | undefined> {
  if (idempotencyKey === undefined) return undefined;
  const earlier = await stores.sandboxes.findByKey(organizationId, idempotencyKey);
  if (earlier === undefined) return undefined;
  if (clock.now() - earlier.createdAt.getTime() >= keyLifetimeMs) {
    await stores.sandboxes.update(earlier.id, { idempotencyKey: undefined });
    return undefined;
  }
  await gates.open(earlier.id, signal);
  return stores.sandboxes.find(earlier.id);
}

async function placed(
  { placement }: SandboxContext,
  { checkpoint }: CreateSandbox,
  sandbox: Omit<Sandbox, "workerId">,
): Promise<Sandbox> {
  return { ...sandbox, workerId: await placement.choose({ ...sandbox, snapshotId: checkpoint?.snapshotId }) };
}

function sandboxOf(
  { clock, settings: { defaults, ephemeral } }: SandboxContext,
  request: CreateSandbox,
): Omit<Sandbox, "workerId"> {
  const { maxLifetimeSeconds, ...sandbox } = request.sandbox;
  const now = clock.now();
  return {
    ...defaults,
    ...sandbox,
    ephemeral: ephemeral || (request.sandbox.ephemeral ?? false),
    id: newSandboxId(),
    organizationId: request.organizationId,
    idempotencyKey: request.idempotencyKey,
    state: "creating",
    generation: 1,
    hidden: request.hidden ?? false,
    createdAt: new Date(now),
    ...(maxLifetimeSeconds === undefined ? {} : { deleteAt: new Date(now + maxLifetimeSeconds * 1000) }),
    fromCheckpointId: request.checkpoint?.id,
    lastPatchSequence: 0,
    bootsOnUse: false,
    tags: {},
    scalingLocked: false,
  };
}

/** The authority that the guest of a fork trusts already, or a new one for a sandbox with secrets or header rules. */
async function authorityOf(
  { secrets, clock, worker }: SandboxContext,
  { sandbox: { secretStores, egress, authorityId } }: CreateSandbox,
): Promise<string | undefined> {
  if (secretStores === undefined && egress?.headers === undefined) return undefined;
  requireSecretsSupport(worker);
  return authorityId ?? (await secrets.makeAuthority(new Date(clock.now())));
}

/**
 * The sandbox that the new one is a fork of. An image is not a parent, and the parent in another organization stays
 * private.
 */
function parentOf({ organizationId, checkpoint }: CreateSandbox): SandboxId | undefined {
  if (checkpoint === undefined || checkpoint.hidden || checkpoint.organizationId !== organizationId) return undefined;
  return checkpoint.sandboxId;
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
  await using _ = checkpoint === undefined ? undefined : await context.snapshots.use(checkpoint.snapshotId);
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
    // The row stays, so that a user can see what is left of the sandbox and delete it.
    context.log("error", "cannot remove a sandbox that did not start", {
      sandbox: sandbox.id,
      ...describeError(error),
    });
    const endReason = "it did not start and could not be removed";
    await context.stores.sandboxes.move(sandbox, "failed", {
      endedAt: new Date(context.clock.now()),
      endReason,
      idempotencyKey: undefined,
    });
    return;
  }
  await context.stores.sandboxes.remove(sandbox.id);
}
