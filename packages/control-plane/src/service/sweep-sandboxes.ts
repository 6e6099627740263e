import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { endSandbox } from "#sandboxes/delete-sandbox.ts";
import { putToSleep } from "#sandboxes/hibernate-sandbox.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { keepsAwake } from "#execs/run-command.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { MoveOptions } from "#sandboxes/sandbox-store.ts";

/** Hibernates sandboxes with an expired idle timeout, or stops those that cannot be hibernated. */
export class IdleSweep {
  readonly #context: SandboxContext;
  readonly #expiring = new Set<SandboxId>();

  constructor(context: SandboxContext) {
    this.#context = context;
  }

  /** Begins with every sandbox that has expired, and waits for none: a guest that hangs holds up only its own sandbox. */
  async run(): Promise<void> {
    const {
      activity,
      servers,
      stores,
      clock,
      operations: { background },
    } = this.#context;
    const ofThisServer = activity.sweep();
    const isShared = servers.id !== undefined && servers.isOnDuty;
    for (const id of isShared ? await stores.sandboxes.listIdle(new Date(clock.now())) : ofThisServer) {
      if (this.#expiring.has(id)) continue;
      this.#expiring.add(id);
      background.run("putting away an idle sandbox", { sandbox: id }, () =>
        expire(this.#context, id).finally(() => this.#expiring.delete(id)),
      );
    }
  }
}

async function expire(context: SandboxContext, id: SandboxId): Promise<void> {
  try {
    await context.operations.gates.run(id, async () => {
      const isShared = context.servers.id !== undefined;
      // A call may have used the sandbox while this operation waited.
      if (!isShared && !context.activity.isExpired(id)) return;
      const sandbox = await context.stores.sandboxes.find(id);
      if (sandbox?.state !== "running") return context.activity.forget(id);
      const idleAt = isShared ? new Date(context.clock.now()) : undefined;
      if (idleAt !== undefined && (sandbox.expiresAt === undefined || sandbox.expiresAt > idleAt)) return;
      if (await isKeptAwake(context, id)) return context.activity.begin(id)[Symbol.dispose]();
      const reason = `it was idle for ${sandbox.idleTimeoutSeconds} seconds`;
      if (sandbox.onTimeout === "kill") await endSandbox(context, sandbox, { reason: "expired", endReason: reason });
      else await putAway(context, sandbox, { reason, idleAt });
    });
  } catch (error) {
    // A call through another server used it in the last moment.
    if (context.servers.id !== undefined && isSandboxError(error, "wrong_state")) return;
    // The idle timeout begins anew, so the next attempt comes when it has passed once more.
    context.activity.begin(id)[Symbol.dispose]();
    context.log("error", "cannot hibernate or stop an idle sandbox", { sandbox: id, ...describeError(error) });
  }
}

/** Deadline for asking the guest for its commands. A guest that does not answer is put away. */
const askMs = 10_000;

/** Whether a command runs that was started to keep its sandbox awake. */
async function isKeptAwake({ worker, log }: SandboxContext, id: SandboxId): Promise<boolean> {
  try {
    const sessions = await worker.guest(id).sessions.list(AbortSignal.timeout(askMs));
    return sessions.some((session) => session.end === undefined && keepsAwake(session.id));
  } catch (error) {
    log("warn", "cannot ask an idle sandbox for its commands: putting it away", {
      sandbox: id,
      ...describeError(error),
    });
    return false;
  }
}

export interface PutAway extends Pick<MoveOptions, "idleAt"> {
  readonly reason: string;
}

/**
 * Hibernates a running sandbox, or deletes it when it is ephemeral or cannot be hibernated. Its gate must be held.
 * @throws `wrong_state` when it is used after `idleAt`
 */
export async function putAway(context: SandboxContext, sandbox: Sandbox, { reason, idleAt }: PutAway): Promise<void> {
  if (sandbox.ephemeral || sandbox.hidden)
    return endSandbox(context, sandbox, { reason: "expired", endReason: reason });
  try {
    await putToSleep(context, sandbox, { idleAt });
  } catch (error) {
    if (!isSandboxError(error, "not_supported")) throw error;
    const running = await context.stores.sandboxes.find(sandbox.id);
    const endReason = `${reason}, and ${error.message}`;
    if (running !== undefined) await endSandbox(context, running, { reason: "expired", endReason });
  }
}
