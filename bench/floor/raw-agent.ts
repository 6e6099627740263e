import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { create, type DescMessage, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { Channel, type Stream } from "@opensandbox/wire/guest/channel.ts";
import { encodeFrame, frameTypes } from "@opensandbox/wire/guest/frame.ts";
import { HelloSchema } from "@opensandbox/wire/guest/messages_pb.js";
import { type Method, methods, protocolVersion } from "@opensandbox/wire/guest/methods.ts";
import { within } from "@opensandbox/wire/testing/eventually.ts";

/**
 * Bounds the wait for a guest: a running one answers at once, a booting one within minutes on a crowded host without
 * KVM.
 */
const answersWithinMs = 600_000;

/** The host's end of an agent channel: the wire's codec and nothing else. */
export class RawAgent implements Disposable {
  readonly #socket: Socket;
  readonly #channel: Channel;
  readonly #ready = Promise.withResolvers<void>();
  #epoch = 0;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#channel = new Channel(
      {
        async write(bytes) {
          if (!socket.write(bytes)) await once(socket, "drain");
        },
      },
      {
        hello: (_, epoch) => {
          if (epoch !== 0 && epoch === this.#epoch) this.#ready.resolve();
          else if (epoch === 0) this.#greet();
        },
      },
    );
    socket.on("data", (chunk: Buffer) => this.#channel.receive(chunk));
    socket.on("error", () => socket.destroy());
    this.#greet();
  }

  /** Connects to the socket of a running QEMU. The guest need not be running. */
  static async connect(path: string): Promise<RawAgent> {
    const socket = connect(path);
    await within(`QEMU accepts a connection on ${path}`, once(socket, "connect"));
    return new RawAgent(socket);
  }

  /** One round trip. The first includes the greeting. */
  async ping(): Promise<void> {
    await this.call(methods.ping, {});
  }

  async call<Request extends DescMessage>(method: Method<Request>, request: MessageInitShape<Request>): Promise<void> {
    const stream = await this.open(method, request);
    await within("the agent of the raw machine ends its reply", rest(stream), answersWithinMs);
  }

  async open<Request extends DescMessage>(
    method: Method<Request>,
    request: MessageInitShape<Request>,
  ): Promise<Stream> {
    await within("the agent of the raw machine answers", this.#ready.promise, answersWithinMs);
    return this.#channel.open(method, create(method.request, request));
  }

  /** Runs a command to its end and returns its output. @throws when its exit code is not 0 */
  async run(...argv: readonly string[]): Promise<string> {
    const stream = await this.open(methods.sessionCreate, commandRequest(argv));
    const { data, reply } = await within(`${argv.join(" ")} ends in the raw machine`, rest(stream), answersWithinMs);
    const { exitCode, signal } = fromBinary(methods.sessionCreate.reply, reply).result ?? unknownEnd;
    if (exitCode !== 0 || signal !== 0) throw new Error(`${argv.join(" ")}: exit code ${exitCode}\n${data}`);
    return data;
  }

  /** Starts a command. Disposing the result ends it. */
  async start(argv: readonly string[], onOutput: (bytes: Uint8Array) => void): Promise<Disposable> {
    const request = commandRequest(argv);
    const stream = await this.open(methods.sessionCreate, request);
    const read = async (): Promise<void> => {
      for (;;) {
        const incoming = await stream.next();
        if (incoming.kind === "end") return;
        if (incoming.kind === "data") onOutput(incoming.payload);
      }
    };
    // The loop ends when the stream is reset.
    read().catch(() => undefined);
    const givenUp = new SandboxError("canceled", "the reader has seen enough");
    return {
      [Symbol.dispose]: () => {
        stream.reset(givenUp);
        // A closed channel has also ended the program that ran in the machine.
        this.call(methods.sessionRemove, { id: request.id }).catch(() => undefined);
      },
    };
  }

  async writeFile(path: string, content: Uint8Array, mode: number): Promise<void> {
    const stream = await this.open(methods.writeFile, { path, mode });
    const answer = stream.next();
    await stream.sendData(0, content);
    await stream.end();
    await answer;
  }

  [Symbol.dispose](): void {
    this.#channel.close(new SandboxError("canceled", "the raw agent channel was closed"));
    this.#socket.destroy();
  }

  #greet(): void {
    this.#epoch = (randomBytes(4).readUInt32LE() | 1) >>> 0;
    this.#channel.startEpoch(this.#epoch, new SandboxError("unavailable", "the raw agent was restarted"));
    // A failed socket rejects every pending wait.
    this.#channel.sendHello({ version: "", instance: 0n }).catch(() => undefined);
  }
}

/** A command with its caller attached from the first byte of output. */
export function commandRequest(argv: readonly string[]) {
  return { id: randomBytes(8).toString("hex"), command: { argv: [...argv] }, attach: true, transient: true };
}

const unknownEnd = { exitCode: -1, signal: 0 };

/** Input of the native channel program: a greeting and a request, each frame after its length. */
export function requestFrames<Request extends DescMessage>(
  method: Method<Request>,
  request: MessageInitShape<Request>,
): Buffer {
  const epoch = (randomBytes(4).readUInt32LE() | 1) >>> 0;
  const hello = toBinary(HelloSchema, create(HelloSchema, { protocolVersion, version: "", instance: 0n }));
  const frames = [
    encodeFrame({ stream: 0, epoch, type: frameTypes.hello, tag: 0, payload: hello }),
    encodeFrame({
      ...{ stream: 1, epoch, type: frameTypes.open, tag: method.id },
      payload: toBinary(method.request, create(method.request, request)),
    }),
  ];
  return Buffer.concat(
    frames.flatMap((frame) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(frame.length);
      return [length, frame];
    }),
  );
}

/** Reads a stream to its end. */
export async function rest(stream: Stream): Promise<{ readonly data: string; readonly reply: Uint8Array }> {
  const parts: Uint8Array[] = [];
  for (;;) {
    const incoming = await stream.next();
    if (incoming.kind === "data") parts.push(incoming.payload);
    if (incoming.kind === "end") return { data: Buffer.concat(parts).toString("utf8"), reply: incoming.payload };
  }
}
