import { z } from "zod";
import type { Route } from "../route.ts";
import type { BuildLogEntry } from "./templates.ts";

export const logLevels = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof logLevels)[number];

/** The largest page, and the default one. */
const maxLines = 1000;

const limit = z.coerce.number("limit must be a number").int().min(0).max(maxLines, `limit must be at most ${maxLines}`);
const time = z.coerce.number("the time must be milliseconds since 1970").int().min(0);

const LogsQuery = z.object({ start: time.optional(), limit: limit.default(maxLines) });
export type LogsQuery = z.infer<typeof LogsQuery>;

const SecondLogsQuery = z.object({
  /** The first line's time, in milliseconds; with the direction `backward` the last line's. */
  cursor: time.optional(),
  limit: limit.default(maxLines),
  direction: z.enum(["forward", "backward"], "direction must be forward or backward").default("forward"),
  level: z.enum(logLevels, `level must be one of ${logLevels.join(", ")}`).default("debug"),
  /** Part of the message. */
  search: z.string().max(1000, "search must be at most 1000 characters").default(""),
});
export type SecondLogsQuery = z.infer<typeof SecondLogsQuery>;

export interface LogEntry {
  readonly timestamp: string;
  readonly message: string;
  readonly level: LogLevel;
  readonly fields: Readonly<Record<string, string>>;
}

export interface LogsReply {
  readonly logs: readonly { readonly timestamp: string; readonly line: string }[];
  readonly logEntries: readonly LogEntry[];
}

export interface SecondLogsReply {
  readonly logs: readonly LogEntry[];
}

export interface BuildLogsReply {
  readonly logs: readonly BuildLogEntry[];
}

const key = { access: "key" } as const;

export const logs: Route<unknown, LogsQuery, LogsReply> = {
  ...key,
  ...{ method: "GET", path: "/sandboxes/:id/logs", name: "e2bLogs", summary: "Read the log of a sandbox" },
  query: LogsQuery,
  status: 200,
  reply: z.custom<LogsReply>(),
};

export const logsSecond: Route<unknown, SecondLogsQuery, SecondLogsReply> = {
  ...key,
  ...{ method: "GET", path: "/v2/sandboxes/:id/logs", name: "e2bLogsSecond", summary: "Read the log of a sandbox" },
  query: SecondLogsQuery,
  status: 200,
  reply: z.custom<SecondLogsReply>(),
};

export const buildLogs: Route<unknown, SecondLogsQuery, BuildLogsReply> = {
  ...key,
  ...{
    method: "GET",
    path: "/templates/:id/builds/:build/logs",
    name: "e2bBuildLogs",
    summary: "Read the log of a template's build",
  },
  query: SecondLogsQuery,
  status: 200,
  reply: z.custom<BuildLogsReply>(),
};
