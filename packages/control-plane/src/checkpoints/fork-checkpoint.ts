import type { EgressRules } from "@opensandbox/wire/egress.ts";
import { egressFrom } from "@opensandbox/wire/public/sandboxes/network.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { createSandbox, type CreatedSandbox, type CreateSandbox } from "#sandboxes/create-sandbox.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { checkpointNotFound } from "./checkpoint-store.ts";
import type { Checkpoint } from "./checkpoint.ts";

/** The properties of a fork. Absent: those of the checkpoint. */
export interface Fork {
  readonly vcpus?: number;
  readonly memoryMib?: number;
  readonly workspaceMib?: number;
  readonly idleTimeoutSeconds?: number;
  readonly networkEnabled?: boolean;
  readonly egress?: EgressRules | undefined;
  readonly previewTokenHash?: string | undefined;
  readonly forwardedPort?: number | undefined;
  /** These variables take precedence over the checkpoint's. */
  readonly envs: Readonly<Record<string, string>>;
  /** Takes precedence over the checkpoint's metadata. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly alias: string;
  readonly ephemeral?: boolean;
  readonly onTimeout?: "hibernate" | "kill" | undefined;
  readonly maxLifetimeSeconds?: number | undefined;
  /** The ids of stores whose secrets take precedence over those of the checkpoint's stores. */
  readonly secretStores?: readonly string[] | undefined;
}

export interface ForkCheckpoint {
  readonly organizationId: string;
  readonly checkpointId: string;
  readonly fork: Fork;
  readonly idempotencyKey?: string | undefined;
}

// A capture takes seconds, so a fork that is asked for right after it waits instead of failing.
const readyTimeoutMs = 30_000;

/** Creates a sandbox from a checkpoint that is public or the organization's. Returns when it runs and is patched. */
export async function forkCheckpoint(
  context: SandboxContext,
  request: ForkCheckpoint,
  signal: AbortSignal,
): Promise<CreatedSandbox> {
  const { organizationId, checkpointId, fork, idempotencyKey } = request;
  const checkpoint = await readyCheckpoint(context, organizationId, checkpointId, signal);
  const create = forkOf(checkpoint, { organizationId, fork, idempotencyKey });
  return createSandbox(context, create, () => {}, signal);
}

/** The create that makes a fork of the checkpoint. */
export function forkOf(
  checkpoint: Checkpoint,
  { organizationId, fork, idempotencyKey }: Omit<ForkCheckpoint, "checkpointId">,
): CreateSandbox {
  const { image, vcpus, memoryMib, workspaceMib, networkEnabled, egress, envs, metadata } = checkpoint;
  const { secretStores = [], authorityId } = checkpoint;
  // A publication shares the machine, not the environment variables and headers, which may be the owner's secrets, and not
  // its stores.
  const inherited =
    checkpoint.organizationId === organizationId
      ? { envs, metadata, secretStores, authorityId, egress }
      : { envs: {}, metadata: {}, secretStores: [], authorityId: undefined, egress: withoutHeaders(egress) };
  const stores = [...inherited.secretStores, ...(fork.secretStores ?? [])];
  return {
    organizationId,
    idempotencyKey,
    checkpoint,
    sandbox: {
      image,
      vcpus,
      memoryMib,
      workspaceMib,
      networkEnabled,
      egress: inherited.egress,
      ...fork,
      envs: { ...inherited.envs, ...fork.envs },
      metadata: { ...inherited.metadata, ...fork.metadata },
      // A store that is given again moves to the end.
      secretStores: stores.length === 0 ? undefined : stores.filter((id, index) => stores.lastIndexOf(id) === index),
      authorityId: inherited.authorityId,
    },
  };
}

function withoutHeaders(egress: EgressRules | undefined): EgressRules | undefined {
  return egress && egressFrom({ ...egress, headers: undefined });
}

async function readyCheckpoint(
  context: SandboxContext,
  organizationId: string,
  id: string,
  signal: AbortSignal,
): Promise<Checkpoint> {
  const {
    stores,
    operations: { captures },
  } = context;
  const find = async (): Promise<Checkpoint> => {
    const checkpoint = await stores.checkpoints.find(id);
    if (checkpoint === undefined) throw checkpointNotFound(id);
    if (checkpoint.organizationId !== organizationId && !checkpoint.isPublic) throw checkpointNotFound(id);
    return checkpoint;
  };
  let checkpoint = await find();
  if (checkpoint.status === "processing") {
    const enough = AbortSignal.any([signal, AbortSignal.timeout(readyTimeoutMs)]);
    // The row is read below and says whether the capture failed.
    await captures.join(id, enough).catch(() => signal.throwIfAborted());
    checkpoint = await find();
  }
  if (checkpoint.status === "ready") return checkpoint;
  if (checkpoint.status === "failed") {
    const why = checkpoint.error === undefined ? "" : `: ${checkpoint.error}`;
    throw new SandboxError("invalid_argument", `checkpoint is not ready: it failed${why}`);
  }
  throw new SandboxError("unavailable", "checkpoint is not ready yet: try again");
}
