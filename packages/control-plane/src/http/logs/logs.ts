import { SandboxError } from "@opensandbox/wire/errors.ts";
import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/sandboxes/logs.ts";
import type { FastifyInstance } from "fastify";
import type { LogLine } from "../../logs/log-line.ts";
import { readLog } from "../../logs/sandbox-log.ts";
import type { ApiContext } from "../api-context.ts";
import { EventStream } from "../event-stream.ts";
import { wantsEvents } from "../images/build-events.ts";
import { failureOf } from "../reply-error.ts";
import { answered, serve } from "../serve.ts";

/** Logs that are followed at once. Each asks its guest every second. */
const maxFollowed = 200;

export function serveLogs(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes } = api;
  let followed = 0;

  serve(app, sandboxes.shutdown.ending, wire.getLogs, async (call) => {
    const { organizationId, parameter, query, signal, request, reply } = call;
    const id = parseSandboxId(parameter("id"));
    const { sources, tail, limit, since, until, text } = wire.logSelectionFrom(query);
    const isWanted = ({ at, line }: LogLine): boolean =>
      line.includes(text) &&
      (since === undefined || (at !== undefined && at >= since)) &&
      (until === undefined || (at !== undefined && at < until));
    const isStream = wantsEvents(call);
    const follows = isStream && query.follow !== "false";
    if (follows && followed >= maxFollowed) {
      throw new SandboxError(
        "unavailable",
        `${maxFollowed} logs are followed already: end one, or read without follow`,
      );
    }
    const rounds = readLog(sandboxes, { organizationId, id, sources }, { follows, signal });
    const first = (await rounds.next()).value ?? [];
    const lines = first.filter(isWanted).slice(-tail).slice(0, limit);
    if (!isStream) return lines.map((line) => wire.logLineReplyOf(id, line));

    using stream = new EventStream(reply, api.timing.keepAliveMs);
    stream.begin();
    followed += 1;
    try {
      let left = limit;
      const send = async (wanted: readonly LogLine[]): Promise<void> => {
        for (const line of wanted.slice(0, left)) stream.send("log", wire.logLineReplyOf(id, line));
        left -= wanted.length;
        await stream.drained(signal);
      };
      await send(lines);
      if (left > 0) {
        for await (const round of rounds) {
          await send(round.filter(isWanted));
          if (left <= 0) break;
        }
      }
    } catch (error) {
      if (!signal.aborted) stream.send("error", failureOf(error, request.id, sandboxes).body);
    } finally {
      followed -= 1;
      stream.end();
    }
    return answered;
  });
}
