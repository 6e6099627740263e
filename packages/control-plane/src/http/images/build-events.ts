import type { BuildLog } from "#images/image.ts";
import type { ApiContext } from "../api-context.ts";
import { EventStream } from "../event-stream.ts";
import { auditFailed, auditMade } from "../requests/audit-calls.ts";
import { failureOf } from "../reply-error.ts";
import { answered, type Call } from "../serve.ts";

export function wantsEvents({ request }: Pick<Call<unknown, unknown>, "request">): boolean {
  return request.headers.accept?.includes("text/event-stream") ?? false;
}

/**
 * Answers with the log of the work as events, then with its result or its error. A failure before the first event is
 * answered with its own status.
 */
export async function answerWithEvents(
  api: ApiContext,
  { request, reply }: Pick<Call<unknown, unknown>, "request" | "reply">,
  work: (onLog: (log: BuildLog) => void) => Promise<unknown>,
): Promise<typeof answered> {
  using events = new EventStream(reply, api.timing.keepAliveMs);
  const buildLog = boundedLog(events);
  try {
    const result = await work(buildLog.onLog);
    buildLog.end();
    auditMade(request, result);
    events.send("result", result);
  } catch (error) {
    if (!events.begun) throw error;
    const { status, body } = failureOf(error, request.id, api.sandboxes);
    auditFailed(request, status);
    buildLog.end();
    events.send("error", body);
  }
  events.end();
  return answered;
}

/** A build does not wait for a client that reads slowly: lines are left out, and one line says how many. */
function boundedLog(events: EventStream): { readonly onLog: (log: BuildLog) => void; readonly end: () => void } {
  let omitted: (BuildLog & { readonly lines: number }) | undefined;
  const note = ({ step, lines }: { readonly step: number; readonly lines: number }): BuildLog => ({
    step,
    type: "progress",
    message: `${lines} lines are left out: the client reads more slowly than the build writes`,
  });
  return {
    onLog(log) {
      if (omitted !== undefined && events.offer("build_log", note(omitted))) omitted = undefined;
      if (omitted === undefined && events.offer("build_log", log)) return;
      omitted = { ...log, lines: (omitted?.lines ?? 0) + 1 };
    },
    end() {
      if (omitted !== undefined) events.send("build_log", note(omitted));
    },
  };
}
