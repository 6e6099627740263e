import type { PermissionMode } from "../command.ts";
import { bash } from "./bash.ts";
import { edit, read, write } from "./files.ts";
import type { Tool } from "./tool.ts";

export const ownTools: readonly Tool[] = [bash, read, write, edit];

/**
 * The tools that the model may use. A session cannot ask a person for permission, so tools that would need it are not
 * offered.
 */
export function permitted(tools: readonly Tool[], mode: PermissionMode, allowed: readonly string[]): readonly Tool[] {
  const always = {
    bypassPermissions: allowed.length === 0 ? tools.map(({ name }) => name) : [],
    acceptEdits: [read, write, edit].map(({ name }) => name),
    default: [read.name],
    plan: [read.name],
  }[mode];
  const names = new Set([...always, ...(mode === "plan" ? [] : allowed)]);
  // `mcp__SERVER` stands for every tool of that server.
  return tools.filter(({ name }) => names.has(name) || names.has(name.split("__").slice(0, 2).join("__")));
}
