import { spawn } from "node:child_process";
import { once } from "node:events";
import { constants } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { readConfig } from "@opensandbox/server";
import { within } from "@opensandbox/wire/testing/eventually.ts";

export interface EndedCli {
  /** The exit code as a shell reports it: 128 + n for signal n. */
  readonly code: number;
  readonly stdout: Buffer;
  readonly stderr: string;
}

export interface StartedCli {
  readonly pid: number;
  /** Undefined: the program has no standard input. */
  readonly stdin: Writable | undefined;
  readonly stdout: Readable;
  /** Standard error so far. */
  readonly stderr: () => string;
  kill(signal: NodeJS.Signals): void;
  readonly ended: Promise<EndedCli>;
}

/** No command of a test builds an image, but one may boot a machine on a crowded host without KVM. */
const endsWithinMs = 1_200_000;

export interface CliOptions {
  readonly env: Readonly<Record<string, string>>;
  /** `null`: /dev/null. Absent: a pipe that stays open. */
  readonly stdin?: string | Buffer | null;
}

/** A user of its own with everything below `directory`, but the built images of this host. */
export function cliEnvironment(directory: string): Record<string, string> {
  const { imagesDirectory, templatesDirectory } = readConfig(process.env);
  return {
    OPENSANDBOX_IMAGES_DIR: imagesDirectory,
    OPENSANDBOX_TEMPLATES_DIR: templatesDirectory,
    OPENSANDBOX_DATA_DIR: join(directory, "data"),
    XDG_CONFIG_HOME: join(directory, "config"),
  };
}

/** Starts the command line in a process of its own. `program` and its first arguments select the command line. */
export function startCli(
  program: readonly [string, ...string[]],
  args: readonly string[],
  options: CliOptions,
): StartedCli {
  const [file, ...first] = program;
  const child = spawn(file, [...first, ...args], {
    env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", ...options.env },
    stdio: [options.stdin === null ? "ignore" : "pipe", "pipe", "pipe"],
  });
  const { stdin, stdout, stderr } = child;
  // The process may end before it has read all of its input.
  stdin?.on("error", () => undefined);
  if (options.stdin !== undefined && options.stdin !== null) stdin?.end(options.stdin);
  let said = "";
  stderr?.setEncoding("utf8").on("data", (text: string) => (said += text));
  const output: Buffer[] = [];
  stdout?.on("data", (chunk: Buffer) => output.push(chunk));
  const ended = async (): Promise<EndedCli> => {
    const close = once(child, "close") as Promise<[number, null] | [null, NodeJS.Signals]>;
    const [code, signal] = await within(`the command line ends: ${args.join(" ")}`, close, endsWithinMs);
    return { code: code ?? 128 + constants.signals[signal], stdout: Buffer.concat(output), stderr: said };
  };
  return {
    pid: child.pid ?? 0,
    stdin: stdin ?? undefined,
    stdout: stdout!,
    stderr: () => said,
    kill: (signal) => void child.kill(signal),
    ended: ended(),
  };
}

/** The first piece of output of a command line that keeps running. @throws when it exits before */
export async function firstOutput({ stdout, ended }: StartedCli): Promise<string> {
  const early = ended.then(({ code, stderr }) => {
    throw new Error(`the command line exited with ${code} before its first output; standard error: ${stderr}`);
  });
  const [chunk] = (await Promise.race([once(stdout, "data"), early])) as [Buffer];
  early.catch(() => undefined);
  return chunk.toString();
}
