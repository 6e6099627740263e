import type { MessageInitShape } from "@bufbuild/protobuf";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { inPieces } from "@opensandbox/wire/worker/rpc/fleet-node.ts";
import type * as pb from "@opensandbox/wire/worker/rpc/worker_pb.js";
import type { PortConnection } from "@opensandbox/wire/worker/ports.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";

/**
 * Carries a connection to a server in a guest, for a caller on another host. Both directions wait for their reader: the
 * caller's bytes are taken from the connection only after the guest has taken those before.
 */
export async function* portStream(
  worker: Worker,
  inputs: AsyncIterable<pb.PortInput>,
  signal: AbortSignal,
): AsyncGenerator<MessageInitShape<typeof pb.PortOutputSchema>> {
  const messages = inputs[Symbol.asyncIterator]();
  const first = await messages.next();
  const request = first.done === true ? undefined : first.value.event;
  if (request?.case !== "open") throw new SandboxError("invalid_argument", "a connection begins with its request");
  const { sandboxId, port } = request.value;
  const broken = new AbortController();
  const connection = await worker
    .guest(sandboxId as SandboxId)
    .ports.open(port, AbortSignal.any([signal, broken.signal]));
  yield {};
  // A caller's side that fails ends the whole connection, as a reset of TCP does.
  writeInputs(connection, messages).catch((error: unknown) => broken.abort(error));
  for await (const content of inPieces(connection.incoming)) yield { content };
}

async function writeInputs(connection: PortConnection, messages: AsyncIterator<pb.PortInput>): Promise<void> {
  for (let next = await messages.next(); next.done !== true; next = await messages.next()) {
    if (next.value.event.case === "content") await connection.write(next.value.event.value);
  }
  await connection.end();
}
