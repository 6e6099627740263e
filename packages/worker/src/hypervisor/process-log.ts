import { readFile } from "node:fs/promises";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { VmExit } from "./hypervisor.ts";
import type { VmProcess } from "./vm-process.ts";

/** The last four lines of a process's log, joined to one; empty without a log. */
export async function readEnd(file: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch {
    // The log only explains an error that the caller reports anyway.
    return "";
  }
  return text.trim().split("\n").slice(-4).join("; ");
}

/** The exit of a VM whose process, of the program `name`, has ended by itself or by a signal. */
export async function exitOfProcess(
  name: string,
  { code, signal }: Awaited<VmProcess["exited"]>,
  log: string,
): Promise<VmExit> {
  const how = signal !== null ? `was ended by ${signal}` : code === null ? "has ended" : `exited with ${code}`;
  return { reason: "died", detail: `${name} ${how} ${await readEnd(log)}`.trim() };
}

/**
 * Does `work` with a process that writes the log `log`. When the process ends meanwhile, the error has the end of the
 * log, unless `recognize` makes a better one from it.
 */
export async function explained<Result>(
  log: string,
  work: () => Promise<Result>,
  recognize: (logged: string) => SandboxError | undefined = () => undefined,
): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    const { code, message } = asSandboxError(error);
    const logged = await readEnd(log);
    if (code !== "unavailable" || logged === "") throw error;
    throw recognize(logged) ?? new SandboxError("unavailable", `${message}: ${logged}`, { cause: error });
  }
}
