import { getLogs, LogLineReply } from "@opensandbox/wire/public/sandboxes/logs.ts";
import { readEvents } from "#transport/events.ts";
import { errorFromReply, replyOf, type HttpClient } from "#transport/http.ts";

/** Where a line of a sandbox's log comes from. */
export type LogSource = "console" | "lifecycle" | "refusal" | "exec_stdout" | "exec_stderr" | "agent";

/** One line of a sandbox's log. */
export interface LogLine {
  readonly source: LogSource;
  readonly line: string;
  /** When it happened; of a command's output, when the command began. Absent for lines of the console. */
  readonly at?: string;
  /** The exec session whose output it is. */
  readonly session?: { readonly id: string; readonly argv: readonly string[]; readonly exitCode?: number };
}

export interface LogSelection {
  /** Absent: all. */
  readonly sources?: readonly LogSource[];
  /** How many of the lines so far. Default: 1000. */
  readonly tail?: number;
  /** Only lines that contain this text. */
  readonly text?: string;
}

export interface LogsClient {
  /** The lines so far: the console first, then by time. A sandbox is not woken. */
  list(sandboxId: string, selection?: LogSelection, signal?: AbortSignal): Promise<readonly LogLine[]>;
  /** The lines so far, and then new ones as they come, until the iteration or the signal ends. */
  follow(sandboxId: string, selection?: LogSelection, signal?: AbortSignal): AsyncGenerator<LogLine, void>;
}

export function logsClient(http: HttpClient): LogsClient {
  return {
    async list(id, selection = {}, signal) {
      return (await http.call(getLogs, { parameters: { id }, query: queryOf(selection) }, signal)).map(lineOf);
    },
    async *follow(id, selection = {}, signal) {
      const headers = { Accept: "text/event-stream" };
      const options = { parameters: { id }, query: queryOf(selection), headers };
      const response = await http.send(getLogs, options, signal);
      for await (const { event, data } of readEvents(response, signal)) {
        if (event === "error") throw errorFromReply(500, data);
        yield lineOf(replyOf({ name: getLogs.name, reply: LogLineReply }, data));
      }
    },
  };
}

function queryOf({ sources, tail, text }: LogSelection) {
  return {
    ...(sources === undefined ? {} : { source: sources.join(",") }),
    ...(tail === undefined ? {} : { tail: String(tail) }),
    ...(text === undefined ? {} : { q: text }),
  };
}

function lineOf({ _time: at, source, line, exec_id: id, argv = [], exit_code: exitCode }: LogLineReply): LogLine {
  return {
    ...{ source, line },
    ...(at === undefined ? {} : { at }),
    ...(id === undefined ? {} : { session: { id, argv, ...(exitCode === undefined ? {} : { exitCode }) } }),
  };
}
