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
/** Of the output the model is told this much of the beginning, and of the end. */
const toldBytes = 15_000;

export const bash: Tool = {
  name: "Bash",
  description:
    "Runs a command line in a shell and gives its output and exit code. Each one starts in the working directory, with " +
    "no input. A server is started with `&`: it goes on when the command has ended.",
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
    // Of the group of this process: whoever ends the session ends its commands.
    const child = spawn(shell, ["-c", command], { cwd, stdio: ["ignore", fd, fd] });
    const ended = once(child, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
    const timeout = AbortSignal.timeout(timeoutMs);
    const until = AbortSignal.any([signal, timeout]);
    const kill = (): void => killTree(child.pid);
    until.addEventListener("abort", kill, { once: true });
    if (until.aborted) kill();
    try {
      const [code, killedBy] = await ended;
      const how = endOf({ code, killedBy, interrupted: signal.aborted, timedOut: timeout.aborted });
      const text = await textOf(output);
      return {
        text: [text.trimEnd(), how].filter((part) => part !== "").join("\n") || "(no output)",
        isError: how !== "",
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

/** Empty for one that went well. */
function endOf({ code, killedBy, interrupted, timedOut }: CommandEnd): string {
  if (killedBy !== null) {
    if (interrupted) return "(interrupted by the user)";
    return timedOut ? "(killed: its time was over)" : `(killed by ${killedBy})`;
  }
  return code === 0 ? "" : `(exit code ${code})`;
}

/**
 * A file without a name, and no pipe: what a command leaves running can go on writing, and whoever waits for the command
 * does not wait for that.
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
  if (size <= 2 * toldBytes) return (await part(file, 0, size)).toString();
  const [first, last] = [await part(file, 0, toldBytes), await part(file, size - toldBytes, toldBytes)];
  return `${first.toString()}\n(${size - 2 * toldBytes} bytes left out)\n${last.toString()}`;
}

async function part(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, position);
  return buffer.subarray(0, bytesRead);
}
