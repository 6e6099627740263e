import { spawn } from "node:child_process";
import { once } from "node:events";
import { constants, existsSync } from "node:fs";
import { type FileHandle, open, unlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { killTree } from "./kill-tree.ts";
import { numberInput, textInput, type Tool } from "./tool.ts";

const defaultTimeoutMs = 120_000;
const maxTimeoutMs = 600_000;
/** The model sees this much of the start of the output and of its end. */
const shownBytes = 15_000;

export const bash: Tool = {
  name: "Bash",
  description:
    "Runs a command line in a shell and returns its output and exit code. Each command starts in the working directory " +
    "with empty standard input. Start servers with `&`: they keep running after the command.",
  input_schema: {
    type: "object",
    properties: {
      command: { type: "string" },
      timeout: {
        type: "number",
        description: `Milliseconds. Default ${defaultTimeoutMs}, at most ${maxTimeoutMs}.`,
      },
    },
    required: ["command"],
  },
  async run(input, { cwd, signal }) {
    const command = textInput(input, "command");
    const timeoutMs = Math.min(numberInput(input, "timeout") ?? defaultTimeoutMs, maxTimeoutMs);
    await using output = await temporaryFile();
    const { fd } = output;
    // The command stays in this process's group, so that a signal to the session reaches it.
    const child = spawn(shell, ["-c", command], { cwd, stdio: ["ignore", fd, fd] });
    const ended = once(child, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
    const timeout = AbortSignal.timeout(timeoutMs);
    const until = AbortSignal.any([signal, timeout]);
    const kill = (): void => killTree(child.pid);
    until.addEventListener("abort", kill, { once: true });
    if (until.aborted) kill();
    try {
      const [code, killedBy] = await ended;
      const ending = describeEnd({ code, killedBy, interrupted: signal.aborted, timedOut: timeout.aborted });
      const text = await textOf(output);
      return {
        text: [text.trimEnd(), ending].filter((part) => part !== "").join("\n") || "(no output)",
        isError: ending !== "",
      };
    } finally {
      until.removeEventListener("abort", kill);
    }
  },
};

const shell = ["/bin/bash", "/usr/bin/bash"].find((path) => existsSync(path)) ?? "/bin/sh";

interface CommandEnd {
  readonly code: number | null;
  readonly killedBy: NodeJS.Signals | null;
  readonly interrupted: boolean;
  readonly timedOut: boolean;
}

/** Describes the end of a command for the model. Empty after exit code 0. */
function describeEnd({ code, killedBy, interrupted, timedOut }: CommandEnd): string {
  if (killedBy !== null) {
    if (interrupted) return "(interrupted by the user)";
    return timedOut ? "(killed: it exceeded its timeout)" : `(killed by ${killedBy})`;
  }
  return code === 0 ? "" : `(exit code ${code})`;
}

/**
 * An unlinked file for the output. With a pipe, a background process that the command leaves behind would hold the output
 * open, and the command would seem to run on.
 */
async function temporaryFile(): Promise<FileHandle> {
  const path = join(tmpdir(), `agent-output-${crypto.randomUUID()}`);
  const { O_RDWR, O_CREAT, O_EXCL, O_APPEND } = constants;
  const file = await open(path, O_RDWR | O_CREAT | O_EXCL | O_APPEND, 0o600);
  await unlink(path);
  return file;
}

async function textOf(file: FileHandle): Promise<string> {
  const { size } = await file.stat();
  if (size <= 2 * shownBytes) return (await part(file, 0, size)).toString();
  const [first, last] = [await part(file, 0, shownBytes), await part(file, size - shownBytes, shownBytes)];
  return `${first.toString()}\n(${size - 2 * shownBytes} bytes omitted)\n${last.toString()}`;
}

async function part(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, position);
  return buffer.subarray(0, bytesRead);
}
