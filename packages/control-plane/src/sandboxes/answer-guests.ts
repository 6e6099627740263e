import { asSandboxError, describeError, errorCodes, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { errorReplyOf } from "@opensandbox/wire/public/error-reply.ts";
import { scaleAnswer, scaleSandbox as wire } from "@opensandbox/wire/public/sandboxes/scaling.ts";
import type { GuestAnswer } from "@opensandbox/wire/worker/worker.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { scaleSandbox } from "./scale-sandbox.ts";

/** What a guest asks for itself, through the metadata service of its machine, is answered as its owner would be. */
export function answerGuests(context: SandboxContext): void {
  context.worker.answerGuests({ scale: (id, body) => scale(context, id, body) });
}

/** Never rejects. */
async function scale(context: SandboxContext, id: SandboxId, body: unknown): Promise<GuestAnswer> {
  try {
    const parsed = wire.body?.safeParse(body);
    if (!parsed?.success) {
      throw new SandboxError("invalid_argument", parsed?.error.issues[0]?.message ?? "no body");
    }
    const sandbox = await context.store.find(id);
    if (sandbox === undefined) {
      throw new SandboxError("not_found", `there is no sandbox ${id}`, { resource: "sandbox", id });
    }
    const request = { organizationId: sandbox.organizationId, id, memoryMib: parsed.data.memoryMB };
    return scaleAnswer(await scaleSandbox(context, request, context.ending));
  } catch (thrown) {
    const error = asSandboxError(thrown);
    const { status } = errorCodes[error.code];
    if (status >= 500) context.log("warn", "a guest could not be resized", { sandbox: id, ...describeError(thrown) });
    // What is not ours to tell is in the log.
    return { status, body: error.code === "internal" ? { error: "internal error" } : errorReplyOf(error) };
  }
}
