import { SandboxError } from "@opensandbox/wire/errors.ts";
import { endOfStdinFrame, parseServerFrame, signalFrame, stdinFrame } from "./exec-frames.ts";
import { errorFromReply } from "./http.ts";
import type { HttpClient } from "./http.ts";
import type { OpenSocket, Socket } from "./socket.ts";

export interface ExecRequest {
  /** The program, found by PATH; without `args` a command line for `/bin/sh -c`. */
  readonly cmd: string;
  readonly args?: readonly string[];
  readonly envs?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly user?: string;
  /** Seconds until the command and all it started is killed. 0 or absent: the server's default. */
  readonly timeout?: number;
}

export interface ExecResult {
  /** 128 + n when signal n ended the command, -1 when its time was over. */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ExecOutput {
  readonly pipe: "stdout" | "stderr";
  readonly bytes: Uint8Array;
}

/** A command on its way. Aborting the signal of `stream`, or leaving `output` early, ends it. */
export interface ExecStream {
  /** Must be taken: taking is what lets the command write more. Ends when the command has ended. */
  readonly output: AsyncIterable<ExecOutput>;
  /** Settles after `output` has ended. Rejects when the end of the command is not known. */
  readonly exitCode: Promise<number>;
  write(bytes: Uint8Array): Promise<void>;
  closeStdin(): Promise<void>;
  /** To the command's process group. */
  kill(signal: number): Promise<void>;
}

export interface ExecClient {
  /** Runs a command to its end and returns all of its output. */
  run(id: string, request: ExecRequest, signal?: AbortSignal): Promise<ExecResult>;
  /** Starts a command and streams. Without `stdin` it reads end of file at once. */
  stream(id: string, request: ExecRequest & { readonly stdin?: boolean }, signal?: AbortSignal): Promise<ExecStream>;
}

export function execClient(http: HttpClient, openSocket: OpenSocket): ExecClient {
  return {
    async run(id, request, signal) {
      const path = `/sandboxes/${encodeURIComponent(id)}/exec/run`;
      const reply = await http.json<ExecResult | { error: string }>({ method: "POST", path, json: request }, signal);
      // A long run has sent its status before it could fail.
      if ("error" in reply) throw errorFromReply(500, JSON.stringify(reply));
      return reply;
    },
    async stream(id, request, signal) {
      const path = `/sandboxes/${encodeURIComponent(id)}/exec/stream`;
      const socket = await openSocket(http.socketUrl(path), signal);
      try {
        await socket.send(JSON.stringify(request));
      } catch (error) {
        socket.close();
        throw error;
      }
      return execStream(socket, signal);
    },
  };
}

function execStream(socket: Socket, signal: AbortSignal | undefined): ExecStream {
  const exit = Promise.withResolvers<number>();
  // Whoever only reads output learns of a failure there.
  exit.promise.catch(() => undefined);

  async function* output(): AsyncGenerator<ExecOutput, void> {
    try {
      for await (const message of socket.messages) {
        if (typeof message === "string") throw errorFromReply(500, message);
        const frame = parseServerFrame(message);
        if (frame.kind === "exit") {
          exit.resolve(frame.exitCode);
          return;
        }
        if (frame.kind === "unknown") {
          throw new SandboxError("internal", `the server sent a frame of unknown kind ${frame.id}`, undefined);
        }
        yield { pipe: frame.kind, bytes: frame.bytes };
      }
      throw new SandboxError("unavailable", "the connection ended before the command did", undefined);
    } catch (cause) {
      const error = signal?.aborted === true ? new SandboxError("canceled", "canceled", undefined, { cause }) : cause;
      exit.reject(error);
      throw error;
    } finally {
      // Settled already unless the reader left early.
      exit.reject(new SandboxError("canceled", "the output was not read to its end", undefined));
      socket.close();
    }
  }

  return {
    output: output(),
    exitCode: exit.promise,
    write: async (bytes) => await socket.send(stdinFrame(bytes)),
    closeStdin: async () => await socket.send(endOfStdinFrame()),
    kill: async (number) => await socket.send(signalFrame(number)),
  };
}
