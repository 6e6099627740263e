import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { inNetworkNamespace } from "./kernel/libc.ts";

export interface CommandOptions {
  /** Called with each line of standard error as it arrives, for progress. */
  readonly onLine?: (line: string) => void;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Written to standard input, which is empty otherwise. */
  readonly input?: string | Uint8Array;
  /** The file of the network namespace to run in, such as /run/netns/a. Absent: this process's own. */
  readonly namespace?: string;
  readonly signal?: AbortSignal;
}

// An error message quotes this many lines from the end of standard error.
const quotedLines = 12;

/**
 * Runs a helper program to its end and returns its standard output. `label` says what the
 * run is for: it begins the error message, and tests name the step by it. No shell is involved.
 *
 * @throws `unavailable` for a missing program and for an exit code other than 0, with the end of standard error;
 *   `canceled` after an abort
 */
export async function runCommand(
  label: string,
  argv: readonly [string, ...string[]],
  options: CommandOptions = {},
): Promise<string> {
  const [file, ...args] = argv;
  await failures.get(label)?.();
  const start = () =>
    spawn(file, args, {
      stdio: ["pipe", "pipe", "pipe"],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.env === undefined ? {} : { env: { ...process.env, ...options.env } }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
  const child = options.namespace === undefined ? start() : inNetworkNamespace(options.namespace, start);
  const stdout: Buffer[] = [];
  const lines: string[] = [];
  let partial = "";
  child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    const parts = (partial + text).split(/[\r\n]/);
    partial = parts.pop() ?? "";
    for (const line of parts) {
      if (line === "") continue;
      lines.push(line);
      if (lines.length > quotedLines) lines.shift();
      options.onLine?.(line);
    }
  });
  // A program that ends without reading its input is judged by its exit code, not by the broken pipe.
  child.stdin.on("error", () => undefined);
  child.stdin.end(options.input ?? "");

  const { promise, resolve, reject } = Promise.withResolvers<string>();
  child.once("error", (cause) => {
    if (options.signal?.aborted === true) {
      reject(new SandboxError("canceled", `${label}: canceled`, { cause }));
    } else {
      reject(new SandboxError("unavailable", `${label}: cannot run ${file}: ${cause.message}`, { cause }));
    }
  });
  child.once("close", (code, signal) => {
    if (partial !== "") lines.push(partial);
    if (code === 0) {
      resolve(Buffer.concat(stdout).toString("utf8"));
    } else {
      const end = code === null ? `was ended by ${signal}` : `exited with ${code}`;
      reject(new SandboxError("unavailable", `${label}: ${file} ${end}\n${lines.join("\n")}`.trimEnd()));
    }
  });
  return await promise;
}

/** A helper program that is talked to while it runs, over its standard streams. */
export type Helper = ChildProcessByStdio<Writable, Readable, Readable>;

/** Starts a helper program that {@link runCommand} does not suit. An abort sends it a SIGTERM. */
export function startHelper(
  [file, ...args]: readonly [string, ...string[]],
  { env, signal }: { readonly env: Readonly<Record<string, string>>; readonly signal: AbortSignal },
): Helper {
  return spawn(file, args, { env, stdio: ["pipe", "pipe", "pipe"], signal });
}

const failures = new Map<string, () => unknown>();

/**
 * For tests: calls `fail` before every command of this label, and fails the command with the error that it throws, until
 * it is disposed.
 */
export function failOn(label: string, fail: () => unknown = failing(label)): Disposable {
  failures.set(label, fail);
  return { [Symbol.dispose]: () => void failures.delete(label) };
}

function failing(label: string): () => never {
  return () => {
    throw new SandboxError("unavailable", `${label}: made to fail`);
  };
}
