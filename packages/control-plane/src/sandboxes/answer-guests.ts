import { asSandboxError, describeError, errorCodes, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { errorReplyOf } from "@opensandbox/wire/public/error-reply.ts";
import { scaleAnswer, scaleSandbox as wire, sizeFrom } from "@opensandbox/wire/public/sandboxes/scaling.ts";
import type { GuestAnswer, GuestRequest } from "@opensandbox/wire/worker/worker.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { scaleSandbox } from "./scale-sandbox.ts";

/**
 * Answers requests that guests make through the metadata service, with the rights of their owners, until the control
 * plane shuts down.
 */
export function answerGuests(context: SandboxContext): void {
  const { worker, log } = context;
  const { ending } = context.shutdown;
  const answer = async ({ requestId, sandboxId, body }: GuestRequest): Promise<void> => {
    await worker.answerGuest(requestId, await scale(context, sandboxId, body));
  };
  const fail = (sandbox: SandboxId | undefined) => (error: unknown) => {
    if (!ending.aborted) log("error", "requests of guests cannot be answered", { sandbox, ...describeError(error) });
  };
  const listen = async (): Promise<void> => {
    for await (const request of worker.guestRequests(ending)) answer(request).catch(fail(request.sandboxId));
  };
  listen().catch(fail(undefined));
}

/** Never rejects. */
async function scale(context: SandboxContext, id: SandboxId, body: unknown): Promise<GuestAnswer> {
  try {
    const parsed = wire.body?.safeParse(body);
    if (!parsed?.success) {
      throw new SandboxError("invalid_argument", parsed?.error.issues[0]?.message ?? "no body");
    }
    const sandbox = await context.stores.sandboxes.find(id);
    if (sandbox === undefined) {
      throw new SandboxError("not_found", `sandbox ${id} not found`, { resource: "sandbox", id });
    }
    const request = { organizationId: sandbox.organizationId, id, size: sizeFrom(parsed.data) };
    return scaleAnswer(await scaleSandbox(context, request, context.shutdown.ending));
  } catch (thrown) {
    const error = asSandboxError(thrown);
    const { status } = errorCodes[error.code];
    if (status >= 500)
      context.log("warn", "cannot resize a sandbox that its guest asked to resize", {
        sandbox: id,
        ...describeError(thrown),
      });
    // Internal details stay in the log.
    return { status, body: error.code === "internal" ? { error: "internal error" } : errorReplyOf(error) };
  }
}
