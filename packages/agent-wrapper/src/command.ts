import { statSync } from "node:fs";

export type Command =
  | { readonly type: "prompt"; readonly text: string }
  | { readonly type: "interrupt" }
  | ({ readonly type: "configure" } & Configure);

/** Settings to change. An absent one stays. */
export interface Configure {
  readonly model?: string;
  readonly systemPrompt?: string;
  readonly allowedTools?: readonly string[];
  readonly permissionMode?: PermissionMode;
  readonly maxTurns?: number;
  readonly cwd?: string;
  readonly mcpServers?: Readonly<Record<string, McpServerSettings>>;
  /** The id of the conversation to continue. */
  readonly resume?: string;
  readonly includePartialMessages?: boolean;
}

export const permissionModes = ["default", "acceptEdits", "bypassPermissions", "plan"] as const;
export type PermissionMode = (typeof permissionModes)[number];

export interface McpServerSettings {
  readonly command: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** The command on a line, or a message that says what is wrong with it. */
export function parseCommand(line: string): Command | string {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return "the line is not valid JSON";
  }
  if (!isRecord(value)) return "a command must be a JSON object";
  const { type, ...fields } = value;
  switch (type) {
    case "prompt":
      if (typeof fields["text"] !== "string" || fields["text"] === "") return "a prompt needs a text that is not empty";
      return { type, text: fields["text"] };
    case "interrupt":
      return { type };
    case "configure": {
      const present = Object.entries(fields).filter(([name, field]) => name in rules && field !== null);
      for (const [name, field] of present) {
        const wrong = rules[name]?.(field);
        if (wrong !== undefined) return `${name} ${wrong}`;
      }
      return { type, ...(Object.fromEntries(present) as Configure) };
    }
    default:
      return `unknown command ${JSON.stringify(type) ?? "without a type"}: use prompt, interrupt or configure`;
  }
}

type Rule = (value: unknown) => string | undefined;

const rules: Readonly<Record<string, Rule>> = {
  model: text,
  systemPrompt: text,
  allowedTools: (value) => {
    if (!isTexts(value)) return "must be a list of tool names";
    const rule = value.find((name) => name.includes("("));
    return rule === undefined ? undefined : `must be a list of tool names: rules such as ${rule} are not supported`;
  },
  permissionMode: (value) =>
    permissionModes.some((mode) => mode === value) ? undefined : `must be one of ${permissionModes.join(", ")}`,
  maxTurns: (value) => (Number.isInteger(value) && Number(value) > 0 ? undefined : "must be a whole number above 0"),
  cwd: (value) => {
    if (typeof value !== "string") return "must be a string";
    return statSync(value, { throwIfNoEntry: false })?.isDirectory() ? undefined : `is not a directory: ${value}`;
  },
  mcpServers: (value) =>
    isRecord(value) && Object.values(value).every(isMcpServer)
      ? undefined
      : "must map names to programs, each with a command",
  // The id becomes a file name.
  resume: (value) =>
    typeof value === "string" && /^[0-9a-f-]{36}$/.test(value) ? undefined : "must be the id of a conversation",
  includePartialMessages: (value) => (typeof value === "boolean" ? undefined : "must be true or false"),
};

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? undefined : "must be a string";
}

function isMcpServer(value: unknown): boolean {
  if (!isRecord(value) || typeof value["command"] !== "string") return false;
  const { args = [], env = {} } = value;
  return isTexts(args) && isRecord(env) && isTexts(Object.values(env));
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

/** The value if it is a string, otherwise the fallback. */
export function asText(value: unknown, fallback = ""): string {
  return typeof value === "string" ? value : fallback;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
