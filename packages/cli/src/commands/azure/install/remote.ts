import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

type Environment = Readonly<Record<string, string | undefined>>;

export interface Remote {
  readonly user: string;
  readonly address: string;
  readonly env: Environment;
  /** The machine through which ssh reaches this one, which has no public address. */
  readonly through?: { readonly user: string; readonly address: string };
  /** The name under which ssh records the key of the machine. Absent: its address. */
  readonly keyAlias?: string;
}

/** Options of every connection. The first one records the key of the machine, which Azure has just made. */
const sshOptions = ["-o", "StrictHostKeyChecking=accept-new", "-o", "ServerAliveInterval=15"];

/** The arguments of ssh; `further` stand before the machine. */
export function sshArguments(
  { user, address, through, keyAlias }: Omit<Remote, "env">,
  further: readonly string[] = [],
): string[] {
  const jump = through === undefined ? [] : ["-J", `${through.user}@${through.address}`];
  // Hosts of a private network use the names of deleted ones again.
  const alias = keyAlias === undefined ? [] : ["-o", `HostKeyAlias=${keyAlias}`];
  return [...sshOptions, ...jump, ...alias, ...further, `${user}@${address}`];
}

/**
 * Runs a command line of the remote shell and returns its standard output.
 * @param onLine receives each line of standard error as it arrives
 * @throws `unavailable` with the end of standard error when it fails
 */
export async function runRemote(
  { env, ...remote }: Remote,
  commandLine: string,
  { input, onLine }: { readonly input?: Readable; readonly onLine?: (line: string) => void },
  signal: AbortSignal,
): Promise<string> {
  const child = spawn("ssh", [...sshArguments(remote, ["-o", "BatchMode=yes"]), commandLine], {
    env: { ...env },
    stdio: ["pipe", "pipe", "pipe"],
    signal,
  });
  const output: Buffer[] = [];
  const lines: string[] = [];
  child.stdout.on("data", (chunk: Buffer) => output.push(chunk));
  let partial = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    const parts = (partial + text).split("\n");
    partial = parts.pop() ?? "";
    for (const line of parts) {
      lines.push(line);
      if (lines.length > 12) lines.shift();
      onLine?.(line);
    }
  });
  // A command that ends without reading its input is judged by its exit code.
  child.stdin.on("error", () => undefined);
  if (input === undefined) child.stdin.end();
  else input.pipe(child.stdin);
  const failed = new Promise<never>((_resolve, reject) => {
    child.once("error", (cause) =>
      reject(new SandboxError("unavailable", `cannot run ssh: ${cause.message}`, { cause })),
    );
  });
  const [code] = (await Promise.race([once(child, "close"), failed])) as [number | null];
  if (code === 0) return Buffer.concat(output).toString("utf8");
  const end = [...lines, partial].join("\n").trim();
  throw new SandboxError("unavailable", `ssh ${remote.user}@${remote.address}: exited with ${code}\n${end}`.trimEnd());
}

/** A machine that boots for the first time answers after a minute or two. */
const answerTimeoutMs = 10 * 60_000;
const retryMs = 5_000;

/** Waits until the machine accepts ssh and cloud-init has ended. */
export async function waitForHost(remote: Remote, signal: AbortSignal): Promise<void> {
  for (const deadline = performance.now() + answerTimeoutMs; ;) {
    try {
      // cloud-init exits with 2 after an error that it recovered from.
      await runRemote(remote, "cloud-init status --wait >/dev/null || [ $? -eq 2 ]", {}, signal);
      return;
    } catch (cause) {
      if (signal.aborted) throw cause;
      if (performance.now() > deadline) {
        const message = `${remote.address} did not accept ssh and finish its first boot within ${answerTimeoutMs / 60_000} minutes: ${(cause as Error).message}`;
        throw new SandboxError("timed_out", message, { cause });
      }
    }
    await sleep(retryMs, undefined, { signal });
  }
}
