import type { PermissionMode } from "../command.ts";
import { bash } from "./bash.ts";
import { edit, read, write } from "./files.ts";
import type { Tool } from "./tool.ts";

export const ownTools: readonly Tool[] = [bash, read, write, edit];

/**
 * The tools that the model may use. Nobody can be asked for leave here, so that what would need it is not offered at
 * all.
 */
export function permitted(tools: readonly Tool[], mode: PermissionMode, allowed: readonly string[]): readonly Tool[] {
  const always = {
    bypassPermissions: allowed.length === 0 ? tools.map(({ name }) => name) : [],
    acceptEdits: [read, write, edit].map(({ name }) => name),
    default: [read.name],
    plan: [read.name],
  }[mode];
  const names = new Set([...always, ...(mode === "plan" ? [] : allowed)]);
  // A server's name stands for all of its tools.
  return tools.filter(({ name }) => names.has(name) || names.has(name.split("__").slice(0, 2).join("__")));
}
