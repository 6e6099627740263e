import { SandboxError } from "@opensandbox/wire/errors.ts";
import { newSandboxId } from "@opensandbox/wire/ids.ts";
import type { Progress, Span } from "@opensandbox/wire/worker/worker.ts";
import { describeError } from "../log.ts";
import type { SandboxContext } from "./sandbox-context.ts";
import type { NewSandbox, Sandbox } from "./sandbox.ts";
import { watchMachine } from "./watch-machine.ts";

export interface CreateSandbox {
  readonly organizationId: string;
  readonly sandbox: NewSandbox;
  /** The same key gives the same sandbox. */
  readonly idempotencyKey?: string | undefined;
}

export interface CreatedSandbox {
  readonly sandbox: Sandbox;
  readonly spans: readonly Span[];
  /** It was there already, by its idempotency key. */
  readonly repeated: boolean;
}

/** Returns when a command would work. After a failure, or when the signal is aborted, nothing is left. */
export async function createSandbox(
  context: SandboxContext,
  request: CreateSandbox,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<CreatedSandbox> {
  requireImage(context, request.sandbox.image);
  for (;;) {
    const earlier = await findEarlier(context, request, signal);
    if (earlier !== undefined) return { sandbox: earlier, spans: [], repeated: true };

    const sandbox = sandboxOf(context, request);
    const created = await context.gates.run(sandbox.id, async () => {
      const added = await context.store.add(sandbox, context.maxSandboxes);
      if (added === "limit reached") {
        const message = `concurrent sandbox limit reached (${context.maxSandboxes}): delete one first`;
        throw new SandboxError("quota_exceeded", message, undefined);
      }
      return added === "added" ? start(context, sandbox, onProgress, signal) : undefined;
    });
    if (created !== undefined) return created;
  }
}

function requireImage({ worker }: SandboxContext, image: string): void {
  const { images } = worker.describe();
  if (images.includes(image)) return;
  const known = images.flatMap((name) => (name === "default" ? ["base", "default"] : [name])).join(", ");
  throw new SandboxError("not_found", `template "${image}" not found: there are ${known}`, {
    resource: "image",
    id: image,
  });
}

/** The sandbox of the same idempotency key, when it is known whether its create succeeds. */
async function findEarlier(
  { store, gates }: SandboxContext,
  { organizationId, idempotencyKey }: CreateSandbox,
  signal: AbortSignal,
): Promise<Sandbox | undefined> {
  if (idempotencyKey === undefined) return undefined;
  const earlier = await store.findByKey(organizationId, idempotencyKey);
  if (earlier === undefined) return undefined;
  await gates.open(earlier.id, signal);
  return store.find(earlier.id);
}

function sandboxOf({ defaults, worker, clock }: SandboxContext, request: CreateSandbox): Sandbox {
  return {
    ...defaults,
    ...request.sandbox,
    id: newSandboxId(),
    organizationId: request.organizationId,
    idempotencyKey: request.idempotencyKey,
    state: "creating",
    generation: 1,
    workerId: worker.id,
    createdAt: new Date(clock.now()),
  };
}

async function start(
  context: SandboxContext,
  sandbox: Sandbox,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<CreatedSandbox> {
  const { worker, store, activity, clock } = context;
  await using undo = new AsyncDisposableStack();
  undo.defer(() => undoCreate(context, sandbox));

  const { id, generation, organizationId, image, vcpus, memoryMib, workspaceMib, envs, networkEnabled } = sandbox;
  const from = { kind: "image", image } as const;
  const request = { id, generation, organizationId, from, vcpus, memoryMib, workspaceMib, envs, networkEnabled };
  const { spans } = await worker.startSandbox(request, onProgress, signal);
  signal.throwIfAborted();

  activity.watch(id, sandbox.idleTimeoutSeconds);
  const running = await store.move(sandbox, "started", {
    startedAt: new Date(clock.now()),
    expiresAt: activity.expiresAt(sandbox.idleTimeoutSeconds),
  });
  undo.move();
  watchMachine(context, running);
  context.log("info", "sandbox created", { sandbox: id, image, spans });
  return { sandbox: running, spans, repeated: false };
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
