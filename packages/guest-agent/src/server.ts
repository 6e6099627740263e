import { create, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { Channel, parse, type Stream, type Transport } from "@opensandbox/wire/guest/channel.ts";
import { type MethodName, methods } from "@opensandbox/wire/guest/methods.ts";

type MethodOf<Name extends MethodName> = (typeof methods)[Name];

/** Handlers by method. A resolved value is the reply; a rejection becomes the refusal. */
export type Handlers = {
  readonly [Name in MethodName]: (
    request: MessageShape<MethodOf<Name>["request"]>,
    stream: Stream,
  ) => Promise<MessageInitShape<MethodOf<Name>["reply"]>>;
};

export interface Agent {
  readonly version: string;
  /** Random per process. */
  readonly instance: bigint;
  readonly handlers: Handlers;
}

/** One connection to the host. `receive` takes incoming bytes; `close` ends every stream. */
export interface Session {
  receive(chunk: Uint8Array): void;
  close(error: SandboxError): void;
}

/** Serves the host at the other end of `transport`. A host that breaks the protocol starts over with a new channel. */
export function startSession(transport: Transport, agent: Agent): Session {
  let channel = open();
  return {
    receive: (chunk) => channel.receive(chunk),
    close: (error) => channel.close(error),
  };

  function open(): Channel {
    const opened: Channel = new Channel(transport, {
      hello: (_, epoch) => {
        if (epoch === 0) return;
        opened.startEpoch(epoch, new SandboxError("unavailable", "the host has started a new epoch"));
        announce(opened, agent);
      },
      opened: (stream, method, request) => {
        void serve(stream, method, request, agent);
      },
      broken: (error) => {
        console.error(error.message);
        channel = open();
      },
    });
    announce(opened, agent);
    return opened;
  }
}

/** Greets the host. Epoch 0 announces a new agent; any other epoch answers the host's greeting. */
function announce(channel: Channel, { version, instance }: Agent): void {
  // A failed transport closes the channel, and the reader of the transport reports the failure.
  channel.sendHello({ version, instance }).catch(() => undefined);
}

async function serve(stream: Stream, method: number, request: Uint8Array, agent: Agent): Promise<void> {
  try {
    const name = nameOf(method);
    if (name === undefined) {
      throw new SandboxError("not_supported", `the guest agent ${agent.version} has no method ${method}`);
    }
    await answer(name, stream, request, agent);
  } catch (error) {
    // No caller waits for the refusal of a stream that has ended.
    await stream.refuse(error).catch(() => undefined);
  }
}

async function answer(name: MethodName, stream: Stream, bytes: Uint8Array, agent: Agent): Promise<void> {
  const { request: schema, reply }: { request: DescMessage; reply: DescMessage } = methods[name];
  const request = parse(schema, bytes);
  if (request === undefined) {
    throw new SandboxError("invalid_argument", `the request is not a valid ${schema.typeName}`);
  }
  const handler = agent.handlers[name] as (request: unknown, stream: Stream) => Promise<Record<string, unknown>>;
  await stream.reply(reply, create(reply, await handler(request, stream)));
}

const names = new Map(Object.entries(methods).map(([name, { id }]) => [id, name as MethodName]));

function nameOf(method: number): MethodName | undefined {
  return names.get(method);
}
