import { readFile } from "node:fs/promises";

/** Model and features of the host's processor. A guest's memory refers to them, so a snapshot resumes only on an equal processor. */
export async function readProcessor(): Promise<string> {
  const cpuinfo = await readFile("/proc/cpuinfo", "utf8");
  const field = (name: string): string => new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(cpuinfo)?.[1] ?? "";
  return [field("model name"), field("stepping"), field("flags")].join("; ");
}
