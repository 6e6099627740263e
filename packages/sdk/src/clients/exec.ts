import { deferred } from "#transport/deferred.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { run, stdinWindow, streamExec, streamFrame } from "@opensandbox/wire/public/guests/execs.ts";
import type { RunBody } from "@opensandbox/wire/public/guests/execs.ts";
import { errorFromReply } from "#transport/http.ts";
import type { HttpClient } from "#transport/http.ts";
import type { OpenSocket, Socket } from "#transport/socket.ts";

export interface ExecRequest {
  /** The program, looked up in PATH. Without `args`: a command line for `/bin/sh -c`. */
  readonly cmd: string;
  readonly args?: readonly string[];
  readonly envs?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly user?: string;
  /** Seconds until the command and its child processes are killed; 0: never. Default: 60 for `run`, 0 for `stream`. */
  readonly timeout?: number;
}

export interface ExecResult {
  /** -1: ended by a signal or by the timeout. */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  /** The output exceeded the server's limit and is incomplete. */
  readonly truncated?: boolean | undefined;
}

export interface ExecOutput {
  readonly pipe: "stdout" | "stderr";
  readonly bytes: Uint8Array;
}

/** A running command. Aborting the signal given to `stream`, or leaving `output` early, ends it. */
export interface ExecStream {
  /** Must be read: a command whose output is not read stops at its next write. Ends with the command. */
  readonly output: AsyncIterable<ExecOutput>;
  /**
   * Settles after `output` ends: 128 + n when signal n ended the command, -1 when its timeout did. Rejects when the
   * outcome is unknown.
   */
  readonly exitCode: Promise<number>;
  /** Resolves when more may be written. Rejects when the command has ended. */
  write(bytes: Uint8Array): Promise<void>;
  closeStdin(): Promise<void>;
  /** Sends a signal to the command's process group. */
  kill(signal: number): Promise<void>;
}

export interface ExecClient {
  /** Runs a command to its end and returns its output. */
  run(id: string, request: ExecRequest, signal?: AbortSignal): Promise<ExecResult>;
  /** Starts a command and streams its output. Without `stdin` the command's standard input is empty. */
  stream(id: string, request: ExecRequest & { readonly stdin?: boolean }, signal?: AbortSignal): Promise<ExecStream>;
}

export function execClient(http: HttpClient, openSocket: OpenSocket): ExecClient {
  return {
    async run(id, request, signal) {
      return await http.call(run, { parameters: { id }, body: request as RunBody }, signal);
    },
    async stream(id, request, signal) {
      const socket = await openSocket(await http.socketUrl(streamExec, { id }), signal);
      try {
        // With credit the server reports what the command has read, so that at most one window is in flight.
        await socket.send(JSON.stringify({ ...request, stdinCredit: request.stdin === true }));
      } catch (error) {
        socket.close();
        throw error;
      }
      return execStream(socket, signal);
    },
  };
}

function execStream(socket: Socket, signal: AbortSignal | undefined): ExecStream {
  const exit = deferred<number>();
  // A caller that reads only `output` sees the failure there.
  exit.promise.catch(() => undefined);
  const window = stdinCredit();

  async function* output(): AsyncGenerator<ExecOutput, void> {
    try {
      for await (const message of socket.messages) {
        if (typeof message === "string") throw errorFromReply(500, message);
        const [id] = message;
        if (id === streamFrame.exit && message.length === 5) {
          exit.resolve(new DataView(message.buffer, message.byteOffset).getInt32(1));
          return;
        } else if (id === streamFrame.stdinTaken && message.length === 5) {
          window.give(new DataView(message.buffer, message.byteOffset).getUint32(1));
        } else if (id === streamFrame.stdout || id === streamFrame.stderr) {
          yield { pipe: id === streamFrame.stdout ? "stdout" : "stderr", bytes: message.subarray(1) };
        }
        // Frame kinds of newer servers are skipped.
      }
      throw new SandboxError(
        "unavailable",
        "the connection to the server ended before the command did; its outcome is unknown",
      );
    } catch (cause) {
      const error = signal?.aborted === true ? new SandboxError("canceled", "canceled", { cause }) : cause;
      exit.reject(error);
      throw error;
    } finally {
      // This has an effect only when the reader left early.
      exit.reject(new SandboxError("canceled", "the output was not read to its end"));
      window.end();
      socket.close();
    }
  }

  return {
    output: output(),
    exitCode: exit.promise,
    async write(bytes) {
      for (let sent = 0; sent < bytes.length;) {
        const size = await window.take(bytes.length - sent);
        await socket.send(framed(streamFrame.stdin, bytes.subarray(sent, sent + size)));
        sent += size;
      }
    },
    closeStdin: async () => await socket.send(Uint8Array.of(streamFrame.stdinEnd)),
    kill: async (number) => await socket.send(Uint8Array.of(streamFrame.signal, number)),
  };
}

function framed(id: number, bytes: Uint8Array): Uint8Array {
  const frame = new Uint8Array(bytes.length + 1);
  frame[0] = id;
  frame.set(bytes, 1);
  return frame;
}

// A quarter of the window, so that sending and reading overlap.
const maxStdinFrameBytes = stdinWindow / 4;

/** Limits stdin in flight to the window, so that a signal sent after it is not delayed. */
function stdinCredit(): { take(wanted: number): Promise<number>; give(bytes: number): void; end(): void } {
  let credit = stdinWindow;
  let ended = false;
  let changed = deferred<void>();
  const change = (): void => {
    changed.resolve();
    changed = deferred<void>();
  };

  async function take(wanted: number): Promise<number> {
    if (ended) {
      throw new SandboxError("wrong_state", "the command has ended", {
        resource: "exec",
        state: "ended",
        allowed: ["running"],
      });
    }
    if (credit === 0) {
      await changed.promise;
      return await take(wanted);
    }
    const size = Math.min(wanted, credit, maxStdinFrameBytes);
    credit -= size;
    return size;
  }

  return {
    take,
    give(bytes) {
      credit += bytes;
      change();
    },
    end() {
      ended = true;
      change();
    },
  };
}
