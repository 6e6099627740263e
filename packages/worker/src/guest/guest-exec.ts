import { create } from "@bufbuild/protobuf";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { parse, type Stream } from "@opensandbox/wire/guest/channel.ts";
import { ExecSignalSchema, ExecStartedSchema } from "@opensandbox/wire/guest/messages_pb.js";
import { execPipes, methods } from "@opensandbox/wire/guest/methods.ts";
import type { Exec, ExecEnd, ExecOutput, RunningExec } from "@opensandbox/wire/worker/worker.ts";
import { type GuestClient, replyOf } from "./guest-client.ts";

/** Starts a command; settles when it runs, or rejects with why it does not. */
export async function startExec(guest: GuestClient, request: Exec, signal: AbortSignal): Promise<RunningExec> {
  const { argv, envs = {}, cwd = "", user = "", timeoutMs = 0, stdin = false } = request;
  const stream = await guest.open(
    methods.exec,
    { argv: [...argv], envs: { ...envs }, cwd, user, timeoutMs, stdin },
    signal,
  );
  const started = await stream.next();
  if (started.kind !== "message" || parse(ExecStartedSchema, started.payload) === undefined) {
    const error = new SandboxError("unavailable", "the guest agent does not say that the command runs");
    stream.reset(error);
    throw error;
  }
  const end = Promise.withResolvers<ExecEnd>();
  // The output rejects with the same error; who takes only that need not take this too.
  end.promise.catch(() => undefined);
  return {
    output: output(stream, end),
    result: end.promise,
    write: (bytes) => untilEnd(stream.sendData(0, bytes)),
    closeStdin: () => untilEnd(stream.end()),
    kill: (number) => untilEnd(stream.sendMessage(ExecSignalSchema, create(ExecSignalSchema, { signal: number }))),
  };
}

/** A command that has ended takes no input: that is no error of the sender's. */
async function untilEnd(sending: Promise<void>): Promise<void> {
  try {
    await sending;
  } catch (error) {
    if (asSandboxError(error).code !== "canceled") throw error;
  }
}

async function* output(stream: Stream, end: PromiseWithResolvers<ExecEnd>): AsyncGenerator<ExecOutput> {
  try {
    for (;;) {
      const incoming = await stream.next();
      if (incoming.kind === "data") {
        yield { pipe: incoming.tag === execPipes.stderr ? "stderr" : "stdout", bytes: incoming.payload };
      } else if (incoming.kind === "end") {
        const { exitCode, signal, timedOut } = replyOf(methods.exec, incoming.payload);
        end.resolve({ exitCode, signal, timedOut });
        return;
      }
    }
  } catch (error) {
    end.reject(error);
    throw error;
  } finally {
    // Reached early when nobody takes the output any more; after the end it does nothing.
    const unread = new SandboxError("canceled", "the output is not read any more");
    stream.reset(unread);
    end.reject(unread);
  }
}
