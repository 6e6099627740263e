import { z } from "zod";
import { SandboxError } from "../../errors.ts";
import type { Route } from "../../route.ts";

const sources = ["console", "lifecycle", "refusal", "exec_stdout", "exec_stderr", "agent"] as const;
type Source = (typeof sources)[number];

const maxLines = 10_000;

const count = (name: string): z.ZodType<string> =>
  z
    .string()
    .refine(
      (text) => /^[1-9]\d{0,4}$/.test(text) && Number(text) <= maxLines,
      `${name} must be a number from 1 to ${maxLines}`,
    );

const time = (name: string): z.ZodType<string> =>
  z.string().refine((text) => !Number.isNaN(Date.parse(text)), `${name} must be a time such as 2030-01-01T00:00:00Z`);

const LogQuery = z.object({
  source: z
    .string()
    .optional()
    .meta({ description: `Only these sources, comma-separated: ${sources.join(", ")}. Default: all.` }),
  tail: count("tail")
    .optional()
    .meta({ description: `Only the last lines so far. Default: 1000; at most ${maxLines}.` }),
  limit: count("limit").optional().meta({ description: "End after this many lines." }),
  since: time("since").optional().meta({ description: "Only lines from then on. Lines of the console have no time." }),
  until: time("until").optional().meta({ description: "Only lines before." }),
  q: z.string().max(1000, "q must have at most 1000 characters").optional().meta({
    description: "Only lines that contain this text.",
  }),
  follow: z
    .enum(["true", "false"], "follow must be true or false")
    .optional()
    .meta({ description: "Go on with new lines. Default: true for a stream of events." }),
});
export type LogQuery = z.infer<typeof LogQuery>;

export const LogLineReply = z
  .object({
    _time: z.iso.datetime().optional().meta({
      description: "When it happened; of a command's output, when the command began. The console has no times.",
    }),
    source: z.enum(sources),
    line: z.string(),
    sandbox_id: z.string(),
    exec_id: z.string().optional(),
    command: z.string().optional(),
    argv: z.array(z.string()).optional(),
    exit_code: z.int().optional().meta({ description: "Of a command that has ended." }),
  })
  .meta({ id: "LogLine" });
export type LogLineReply = z.infer<typeof LogLineReply>;

export const getLogs: Route<unknown, LogQuery, LogLineReply[]> = {
  method: "GET",
  path: "/api/sandboxes/:id/logs",
  name: "getLogs",
  summary: "Read the log of a sandbox: console, lifecycle, refused connections and the output of commands",
  description:
    "The console comes first, then lines by time. With `Accept: text/event-stream` the answer is a stream whose events " +
    "have a line each as their data, and it goes on with new lines. The output of a command is that of an exec session " +
    "without a terminal, as long as the guest keeps it: about 1 MiB, or all with `keepOutput`. A sandbox is not woken; " +
    "one that does not run has its lifecycle alone.",
  access: "key",
  query: LogQuery,
  status: 200,
  reply: z.array(LogLineReply),
};

/** The selection that a request makes. @throws `invalid_argument` for an unknown source */
export function logSelectionFrom({ source, tail, limit, since, until, q = "" }: LogQuery) {
  return {
    sources: source === undefined || source === "" ? sources : source.split(",").map(sourceOf),
    tail: tail === undefined ? 1000 : Number(tail),
    limit: limit === undefined ? Number.POSITIVE_INFINITY : Number(limit),
    since: since === undefined ? undefined : new Date(since),
    until: until === undefined ? undefined : new Date(until),
    text: q,
  };
}

function sourceOf(text: string): Source {
  // The name that the published clients have for what is not of a command.
  if (text === "var_log") return "console";
  const known = sources.find((each) => each === text);
  if (known !== undefined) return known;
  throw new SandboxError("invalid_argument", `source: "${text}" is unknown: use ${sources.join(", ")}`);
}

export function logLineReplyOf(
  sandboxId: string,
  line: {
    readonly source: Source;
    readonly line: string;
    readonly at?: Date;
    readonly session?: { readonly id: string; readonly argv: readonly string[]; readonly exitCode?: number };
  },
): LogLineReply {
  const { source, line: text, at, session } = line;
  return {
    ...(at === undefined ? {} : { _time: at.toISOString() }),
    ...{ source, line: text, sandbox_id: sandboxId },
    ...(session === undefined ? {} : { exec_id: session.id, command: session.argv[0] ?? "", argv: [...session.argv] }),
    ...(session?.exitCode === undefined ? {} : { exit_code: session.exitCode }),
  };
}
