import { statSync } from "node:fs";

export type Command =
  | { readonly type: "prompt"; readonly text: string }
  | { readonly type: "interrupt" }
  | ({ readonly type: "configure" } & Configure);

/** What is absent stays as it is. */
export interface Configure {
  readonly model?: string;
  readonly systemPrompt?: string;
  readonly allowedTools?: readonly string[];
  readonly permissionMode?: PermissionMode;
  readonly maxTurns?: number;
  readonly cwd?: string;
  readonly mcpServers?: Readonly<Record<string, McpServerSettings>>;
  /** The id of a conversation that is to go on. */
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

/** The command that a line says, or what is wrong with it. */
export function parseCommand(line: string): Command | string {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return "the line is not valid JSON";
  }
  if (!isRecord(value)) return "a command is a JSON object";
  const { type, ...fields } = value;
  switch (type) {
    case "prompt":
      if (typeof fields["text"] !== "string" || fields["text"] === "") return "a prompt needs a text";
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
      return `there is no command ${JSON.stringify(type) ?? "without a type"}: prompt, interrupt and configure are known`;
  }
}

type Rule = (value: unknown) => string | undefined;

const rules: Readonly<Record<string, Rule>> = {
  model: text,
  systemPrompt: text,
  allowedTools: (value) => {
    if (!isTexts(value)) return "must be a list of names";
    const rule = value.find((name) => name.includes("("));
    return rule === undefined ? undefined : `must be a list of names: ${rule} is a rule, which is not supported`;
  },
  permissionMode: (value) =>
    permissionModes.some((mode) => mode === value) ? undefined : `must be one of ${permissionModes.join(", ")}`,
  maxTurns: (value) => (Number.isInteger(value) && Number(value) > 0 ? undefined : "must be a whole number above 0"),
  cwd: (value) => {
    if (typeof value !== "string") return "must be a text";
    return statSync(value, { throwIfNoEntry: false })?.isDirectory() ? undefined : `is no directory: ${value}`;
  },
  mcpServers: (value) =>
    isRecord(value) && Object.values(value).every(isMcpServer)
      ? undefined
      : "must be programs by name, each with a command",
  // It becomes the name of a file.
  resume: (value) =>
    typeof value === "string" && /^[0-9a-f-]{36}$/.test(value) ? undefined : "must be the id of a conversation",
  includePartialMessages: (value) => (typeof value === "boolean" ? undefined : "must be true or false"),
};

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? undefined : "must be a text";
}

function isMcpServer(value: unknown): boolean {
  if (!isRecord(value) || typeof value["command"] !== "string") return false;
  const { args = [], env = {} } = value;
  return isTexts(args) && isRecord(env) && isTexts(Object.values(env));
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

/** The value where it is a text; the fallback for anything else. */
export function asText(value: unknown, fallback = ""): string {
  return typeof value === "string" ? value : fallback;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
