import type { BuildLog } from "#images/image.ts";
import type { ApiContext } from "../api-context.ts";
import { EventStream } from "../event-stream.ts";
import { failureOf } from "../reply-error.ts";
import { answered, type Call } from "../serve.ts";

export function wantsEvents({ request }: Pick<Call<unknown, unknown>, "request">): boolean {
  return request.headers.accept?.includes("text/event-stream") ?? false;
}

/** Tells what goes on as events, and at last the result or the error. What fails before the first one has a status. */
export async function answerWithEvents(
  api: ApiContext,
  { request, reply }: Pick<Call<unknown, unknown>, "request" | "reply">,
  work: (tell: (log: BuildLog) => void) => Promise<unknown>,
): Promise<typeof answered> {
  using events = new EventStream(reply, api.timing.keepAliveMs);
  try {
    events.send("result", await work((log) => events.send("build_log", log)));
  } catch (error) {
    if (!events.begun) throw error;
    const { log, ending } = api.sandboxes;
    const { body } = failureOf(error, { requestId: request.id, log, ending });
    events.send("error", body);
  }
  events.end();
  return answered;
}
