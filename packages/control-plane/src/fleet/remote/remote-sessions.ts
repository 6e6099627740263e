import type { CallOptions } from "@connectrpc/connect";
import { describeError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex, type SandboxId } from "@opensandbox/wire/ids.ts";
import { maxPieceBytes } from "@opensandbox/wire/worker/rpc/fleet-node.ts";
import * as wire from "@opensandbox/wire/worker/rpc/guest-messages.ts";
import type * as pb from "@opensandbox/wire/worker/rpc/worker_pb.js";
import type { AttachedSession, EndedSession, ExecOutput, GuestSessions } from "@opensandbox/wire/worker/sessions.ts";
import type { Log } from "../../log.ts";
import { CallScope } from "./call-scope.ts";
import type { WorkerClient, WorkerLink } from "./worker-link.ts";

/** The sessions of a guest on another host. */
export function remoteSessions(link: WorkerLink, sandboxId: SandboxId, log: Log): GuestSessions {
  const remove: GuestSessions["remove"] = async (sessionId, signal) => {
    await link.until(signal, (client, options) => client.removeSession({ sandboxId, sessionId }, options));
  };
  /** A call of its own: the worker cannot tell a caller that has left from a connection that broke. */
  const kill = (sessionId: string): void => {
    remove(sessionId, AbortSignal.timeout(link.tuning.answerMs)).catch((error: unknown) => {
      log("warn", "cannot kill a command whose caller has left", {
        sandbox: sandboxId,
        session: sessionId,
        ...describeError(error),
      });
    });
  };
  return {
    async create(request, signal) {
      const message = wire.sessionToWire(sandboxId, request);
      const session = await link.until(signal, (client, options) => client.createSession(message, options));
      return wire.execSessionFromWire(session);
    },
    async run(request, signal) {
      const attachmentId = randomHex(16);
      const message = { ...wire.sessionToWire(sandboxId, request), attachmentId };
      const open: OpenStream = (client, options) => client.runSession(message, options);
      const onLeave = request.whenDetached === "kill" ? () => kill(request.id) : () => {};
      return await attachTo(link, { attachmentId, open, onLeave }, signal);
    },
    async attach(sessionId, options, signal) {
      const attachmentId = randomHex(16);
      const message = { ...wire.attachToWire(sandboxId, sessionId, options), attachmentId };
      const open: OpenStream = (client, callOptions) => client.attachSession(message, callOptions);
      return await attachTo(link, { attachmentId, open, onLeave: () => {} }, signal);
    },
    async list(signal) {
      return await link.until(signal, async (client, options) => {
        const replies = await Array.fromAsync(client.listSessions({ sandboxId }, options));
        return replies.flatMap(({ sessions }) => sessions.map(wire.execSessionFromWire));
      });
    },
    async wait(sessionId, milliseconds, signal) {
      const request = { sandboxId, sessionId, milliseconds };
      return wire.execSessionFromWire(
        await link.until(signal, (client, options) => client.waitSession(request, options)),
      );
    },
    async signal(sessionId, number, signal) {
      const request = { sandboxId, sessionId, number };
      await link.until(signal, (client, options) => client.signalSession(request, options));
    },
    async resize(sessionId, { columns, rows }, signal) {
      const request = { sandboxId, sessionId, size: { columns, rows } };
      await link.until(signal, (client, options) => client.resizeSession(request, options));
    },
    remove,
  };
}

type OpenStream = (client: WorkerClient, options: CallOptions) => AsyncIterable<pb.SessionOutput>;

interface Attachment {
  /** Names the stream when standard input is written to it. */
  readonly attachmentId: string;
  readonly open: OpenStream;
  /** Runs when the caller leaves before the end, and not when the connection breaks. */
  readonly onLeave: () => void;
}

async function attachTo(
  link: WorkerLink,
  { attachmentId, open, onLeave }: Attachment,
  signal: AbortSignal,
): Promise<AttachedSession> {
  signal.throwIfAborted();
  const scope = new CallScope(signal);
  let isOver = false;
  // Registered before the first answer, for a caller that leaves while the command starts.
  scope.signal.addEventListener("abort", () => {
    if (!isOver) onLeave();
  });
  const end = (): void => {
    isOver = true;
    scope.end();
  };
  try {
    const outputs = open(link.client, { signal: scope.signal })[Symbol.asyncIterator]();
    const first = await outputs.next();
    const event = first.done === true ? undefined : first.value.event;
    if (event?.case !== "attached") throw new SandboxError("unavailable", `${link.name} did not attach to the session`);
    const result = Promise.withResolvers<EndedSession>();
    // The output rejects with the same error: a caller that reads the output need not await the result.
    result.promise.catch(() => undefined);
    const write = async (content: Uint8Array, isEnd: boolean): Promise<void> => {
      const request = { attachmentId, content, end: isEnd };
      try {
        await link.until(scope.signal, (client, options) => client.writeSession(request, options));
      } catch (error) {
        // The command has ended and reads no more.
        if (!isOver && !isSandboxError(error, "not_found")) throw error;
      }
    };
    return {
      startedMs: event.value.startedMs,
      ...(event.value.pid === undefined ? {} : { pid: event.value.pid }),
      output: outputOf(outputs, { link, signal, result, end, leave: () => scope.end() }),
      result: result.promise,
      async write(bytes) {
        for (let start = 0; start < bytes.length; start += maxPieceBytes) {
          await write(bytes.subarray(start, start + maxPieceBytes), false);
        }
      },
      closeStdin: () => write(new Uint8Array(), true),
    };
  } catch (error) {
    end();
    throw link.failure(error, signal);
  }
}

interface Reading {
  readonly link: WorkerLink;
  readonly signal: AbortSignal;
  readonly result: PromiseWithResolvers<EndedSession>;
  /** Ends the call: the stream has ended or broken. */
  readonly end: () => void;
  /** Ends the call: the caller has left. */
  readonly leave: () => void;
}

async function* outputOf(
  outputs: AsyncIterator<pb.SessionOutput>,
  { link, signal, result, end, leave }: Reading,
): AsyncGenerator<ExecOutput | "scrollback end"> {
  try {
    for (let next = await outputs.next(); next.done !== true; next = await outputs.next()) {
      const { event } = next.value;
      if (event.case === "stdout" || event.case === "stderr") yield { pipe: event.case, bytes: event.value };
      else if (event.case === "scrollbackEnd") yield "scrollback end";
      else if (event.case === "ended") {
        const ended = wire.endedFromWire(event.value);
        if (ended === undefined) break;
        end();
        result.resolve(ended);
        return;
      }
    }
    throw new SandboxError("unavailable", `${link.name} did not say how the command ended`);
  } catch (error) {
    const failure = link.failure(error, signal);
    end();
    result.reject(failure);
    throw failure;
  } finally {
    // Reached before the end when the reader leaves; after the end this has no effect.
    leave();
    result.reject(new SandboxError("canceled", "detached from the session"));
  }
}
