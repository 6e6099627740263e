import type { MessageInitShape } from "@bufbuild/protobuf";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { maxPieceBytes } from "@opensandbox/wire/worker/rpc/fleet-node.ts";
import type * as pb from "@opensandbox/wire/worker/rpc/worker_pb.js";
import type { GuestPorts, PortConnection } from "@opensandbox/wire/worker/ports.ts";
import { CallScope } from "./call-scope.ts";
import { Outbox } from "./outbox.ts";
import type { WorkerLink } from "./worker-link.ts";

type Input = MessageInitShape<typeof pb.PortInputSchema>;

/** The servers of a guest on another host. */
export function remotePorts(link: WorkerLink, sandboxId: SandboxId): GuestPorts {
  return {
    async open(port, signal) {
      const scope = new CallScope(signal);
      const outbox = new Outbox<Input>();
      const fail = (error: unknown): unknown => {
        const failure = link.failure(error, signal);
        scope.end();
        return failure;
      };
      // A write that waits must not outlast its connection.
      scope.signal.addEventListener("abort", () => outbox.drop());
      const request: Input = { event: { case: "open", value: { sandboxId, port } } };
      try {
        signal.throwIfAborted();
        const inputs = inputsOf(request, outbox);
        const outputs = link.client.openPort(inputs, { signal: scope.signal })[Symbol.asyncIterator]();
        const first = await outputs.next();
        if (first.done === true) throw new SandboxError("unavailable", `${link.name} did not connect to port ${port}`);
        return connection(outputs);
      } catch (error) {
        throw fail(error);
      }

      function connection(outputs: AsyncIterator<pb.PortOutput>): PortConnection {
        return {
          incoming: incomingOf(outputs, { fail, scope }),
          async write(bytes) {
            for (let start = 0; start < bytes.length; start += maxPieceBytes) {
              await outbox.write({ event: { case: "content", value: bytes.subarray(start, start + maxPieceBytes) } });
            }
          },
          async end() {
            outbox.end();
            await Promise.resolve();
          },
        };
      }
    },
  };
}

async function* inputsOf(first: Input, rest: AsyncIterable<Input>): AsyncGenerator<Input> {
  yield first;
  yield* rest;
}

/** The end of the server's side ends the connection. */
async function* incomingOf(
  outputs: AsyncIterator<pb.PortOutput>,
  { fail, scope }: { readonly fail: (error: unknown) => unknown; readonly scope: CallScope },
): AsyncGenerator<Uint8Array> {
  try {
    for (let next = await outputs.next(); next.done !== true; next = await outputs.next()) yield next.value.content;
  } catch (error) {
    throw fail(error);
  } finally {
    scope.end();
  }
}
