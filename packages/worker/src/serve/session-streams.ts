import type { MessageInitShape } from "@bufbuild/protobuf";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { inPieces } from "@opensandbox/wire/worker/rpc/fleet-node.ts";
import * as wire from "@opensandbox/wire/worker/rpc/guest-messages.ts";
import type * as pb from "@opensandbox/wire/worker/rpc/worker_pb.js";
import type { AttachedSession } from "@opensandbox/wire/worker/sessions.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";

type Output = MessageInitShape<typeof pb.SessionOutputSchema>;

/** The listeners on other hosts of sessions on this one. */
export class SessionStreams {
  readonly #worker: Worker;
  /** By the name that the caller chose for its stream. */
  readonly #attached = new Map<string, AttachedSession>();

  constructor(worker: Worker) {
    this.#worker = worker;
  }

  async *run(request: pb.CreateSessionRequest, signal: AbortSignal): AsyncGenerator<Output> {
    const { sessions } = this.#worker.guest(request.sandboxId as SandboxId);
    const attached = await sessions.run(wire.sessionFromWire(request), signal);
    yield* this.#outputOf(request.attachmentId, attached);
  }

  async *attach(request: pb.AttachSessionRequest, signal: AbortSignal): AsyncGenerator<Output> {
    const { sessions } = this.#worker.guest(request.sandboxId as SandboxId);
    const attached = await sessions.attach(request.sessionId, wire.attachFromWire(request), signal);
    yield* this.#outputOf(request.attachmentId, attached);
  }

  /** Resolves when the command has taken the input or reads no more. */
  async write({ attachmentId, content, end }: pb.WriteSessionRequest): Promise<void> {
    const attached = this.#attached.get(attachmentId);
    if (attached === undefined) {
      const details = { resource: "exec session", id: attachmentId } as const;
      throw new SandboxError("not_found", "the stream of this session has ended", details);
    }
    if (content.length > 0) await attached.write(content);
    if (end) await attached.closeStdin();
  }

  /**
   * The next piece of output is read from the guest only after the connection has taken the piece before, so a caller that
   * stalls makes the command wait.
   */
  async *#outputOf(attachmentId: string, attached: AttachedSession): AsyncGenerator<Output> {
    this.#attached.set(attachmentId, attached);
    try {
      const { startedMs, pid } = attached;
      yield { event: { case: "attached", value: { startedMs, ...(pid === undefined ? {} : { pid }) } } };
      for await (const part of attached.output) {
        if (part === "scrollback end") {
          yield { event: { case: "scrollbackEnd", value: {} } };
          continue;
        }
        for await (const piece of inPieces([part.bytes])) yield { event: { case: part.pipe, value: piece } };
      }
      yield { event: { case: "ended", value: wire.endedToWire(await attached.result) } };
    } finally {
      this.#attached.delete(attachmentId);
    }
  }
}
