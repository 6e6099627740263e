import { resolve } from "node:path";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";

const root = resolve(import.meta.dirname, "../..");

/** The date of everything in a package, in seconds since 1970: SOURCE_DATE_EPOCH, or the time of the last commit. */
export async function sourceDate(): Promise<string> {
  const given = process.env["SOURCE_DATE_EPOCH"];
  if (given !== undefined && /^\d+$/.test(given)) return given;
  const git = ["git", "-c", `safe.directory=${root}`, "log", "-1", "--format=%ct"] as const;
  return (await runCommand("date the package (SOURCE_DATE_EPOCH is not set)", git, { cwd: root })).trim();
}
