import * as wire from "@opensandbox/wire/e2b/logs.ts";
import { templateNameFrom } from "@opensandbox/wire/e2b/snapshots.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { FastifyInstance } from "fastify";
import { serve } from "#http/serve.ts";
import { type LogLine, logSources } from "../../logs/log-line.ts";
import { readLog } from "../../logs/sandbox-log.ts";
import { type E2bContext, sandboxIdFrom, shownSandbox } from "../e2b-context.ts";

/** Serves the logs of sandboxes, which do not wake for it, and those of builds. */
export function serveLogs(app: FastifyInstance, context: E2bContext): void {
  const { sandboxes, templates: templateContext } = context;
  const { ending } = sandboxes.shutdown;

  const entriesOf = async (
    organizationId: string,
    named: string,
    signal: AbortSignal,
  ): Promise<readonly wire.LogEntry[]> => {
    const { sandbox } = await shownSandbox(context, organizationId, sandboxIdFrom(named));
    const selection = { organizationId, id: sandbox.id, sources: logSources };
    const lines: LogLine[] = [];
    for await (const round of readLog(sandboxes, selection, { follows: false, signal })) lines.push(...round);
    return lines.map((line) => entryOf(sandbox.id, sandbox.createdAt, line));
  };

  serve(app, ending, wire.logs, async ({ organizationId, parameter, query: { start, limit }, signal }) => {
    const all = await entriesOf(organizationId, parameter("id"), signal);
    const logEntries = pageOf(all, { ...everything, cursor: start, limit });
    return { logs: logEntries.map((entry) => ({ timestamp: entry.timestamp, line: lineOf(entry) })), logEntries };
  });

  serve(app, ending, wire.logsSecond, async ({ organizationId, parameter, query, signal }) => ({
    logs: pageOf(await entriesOf(organizationId, parameter("id"), signal), query),
  }));

  serve(app, ending, wire.buildLogs, async ({ organizationId, parameter, query }) => {
    const { templates, logs } = templateContext;
    const template = await templates.get(organizationId, templateNameFrom(parameter("id")));
    const build = await templates.getBuild(template.id, parameter("build"));
    const lines = logs.find(build.id)?.lines ?? (await templates.logOf(build.id));
    const entries = lines.map((line) => ({ ...line, timestamp: new Date(line.timestamp).toISOString() }));
    return { logs: pageOf(entries, query) };
  });
}

const everything = { direction: "forward", level: "debug", search: "" } as const;

/** The entries that a query selects, from its cursor on in its direction. Pure. */
function pageOf<Entry extends Pick<wire.LogEntry, "timestamp" | "message" | "level">>(
  entries: readonly Entry[],
  { cursor, limit, direction, level, search }: wire.SecondLogsQuery,
): readonly Entry[] {
  const forward = direction === "forward";
  const least = wire.logLevels.indexOf(level);
  const selected = entries.filter((entry) => {
    const time = Date.parse(entry.timestamp);
    const isAfter = cursor === undefined || (forward ? time >= cursor : time <= cursor);
    return isAfter && wire.logLevels.indexOf(entry.level) >= least && entry.message.includes(search);
  });
  return (forward ? selected : selected.toReversed()).slice(0, limit);
}

/** Lines of the console have no time of their own, and count as written when the sandbox was created. */
function entryOf(sandboxID: SandboxId, createdAt: Date, { source, line, at, session }: LogLine): wire.LogEntry {
  return {
    timestamp: (at ?? createdAt).toISOString(),
    message: line,
    level: source === "refusal" ? "warn" : source === "exec_stderr" ? "error" : "info",
    fields: {
      logger: source,
      sandboxID,
      ...(session === undefined ? {} : { session: session.id, command: session.argv.join(" ") }),
    },
  };
}

/** A line of the first version is a JSON object, which the command line of E2B reads. */
function lineOf({ timestamp, message, level, fields }: wire.LogEntry): string {
  return JSON.stringify({ timestamp, level, ...fields, message });
}
