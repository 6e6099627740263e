import { create } from "@bufbuild/protobuf";
import { randomBytes } from "node:crypto";
import type { Socket } from "node:net";
import { asSandboxError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { Channel } from "@opensandbox/wire/guest/channel.ts";
import type { Hello } from "@opensandbox/wire/guest/messages_pb.js";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { connectingVersion, lastPrivilegedPort } from "@opensandbox/wire/guest/vsock.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import {
  type AgentTransport,
  greetedWithin,
  newEpoch,
  untilGreeted,
  virtioSerialTransport,
} from "./agent-transport.ts";
import { type ListenOnVsock, listenOnVsock } from "./kernel/sockets.ts";

/**
 * The vsock device of a machine with the address `cid`. Over the machine's virtio-serial port, whose unix socket is `port`,
 * the agent is asked to connect to a listener of this process, which is open for this one connection and refuses every
 * other guest. The port stays the way to agents that do not connect: those of older snapshots, and of guests whose vsock
 * does not work.
 *
 * The guest connects, since every kernel compares both addresses of a packet with those of an accepted connection. Some
 * find a socket that the host has connected by its port alone, for the packets of every guest (docs/decisions/0011).
 */
export function vsockTransport(cid: number, port: string, listen: ListenOnVsock = listenOnVsock): AgentTransport {
  const serial = virtioSerialTransport(port);
  let isSupported = true;
  return {
    name: "vsock",
    endsAt: "agent",
    async open(signal, report) {
      if (isSupported) {
        const invited = await inviteAgent({ serial, cid, listen }, signal);
        if (!("failure" in invited)) return invited.socket;
        const { failure } = invited;
        isSupported = !isSandboxError(failure, "not_supported");
        if (isSupported) report?.("the guest agent did not connect by vsock: its channel is virtio-serial", failure);
      }
      const connectOnce = async () => ({ socket: await serial.open(signal), isAccepted: () => true });
      return await untilGreeted(connectOnce, signal);
    },
  };
}

/**
 * How long an agent tries to connect, in milliseconds, one time after another: a guest that has just been restored sends
 * from its old address until its driver has read the new one, and nothing answers that.
 */
const connectMs = [200, 400, 800, 1600, 3200] as const;

const proofBytes = 32;

interface Invitation {
  readonly serial: AgentTransport;
  readonly cid: number;
  readonly listen: ListenOnVsock;
}

/** @throws `unavailable` when the machine's port is closed, or the reason of `signal` */
async function inviteAgent(
  { serial, cid, listen }: Invitation,
  signal: AbortSignal,
): Promise<{ readonly socket: Socket } | { readonly failure: SandboxError }> {
  using conversation = new Conversation(await serial.open(signal));
  let failure: SandboxError | undefined;
  for (const timeoutMs of connectMs) {
    const { protocolVersion } = await conversation.greeting(signal);
    if (protocolVersion < connectingVersion) return { failure: new SandboxError("not_supported", "an older agent") };
    try {
      return { socket: await connectionFrom(cid, conversation.channel, listen, timeoutMs, signal) };
    } catch (error) {
      signal.throwIfAborted();
      failure = asSandboxError(error);
      if (failure.code === "not_supported") break;
    }
  }
  return { failure: failure! };
}

/** A connection of the agent, which has greeted on it. */
async function connectionFrom(
  cid: number,
  channel: Channel,
  listen: ListenOnVsock,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Socket> {
  const accepted = Promise.withResolvers<void>();
  let isWaiting = true;
  let socket: Socket | undefined;
  using listener = listen((connection, peer) => {
    // In the guest, a privileged port is root's.
    if (!isWaiting || peer.cid !== cid || peer.port > lastPrivilegedPort) return void connection.destroy();
    isWaiting = false;
    socket = connection;
    accepted.resolve();
  });
  const proof = randomBytes(proofBytes);
  const request = create(methods.connectVsock.request, { port: listener.port, proof, timeoutMs });
  const stream = channel.open(methods.connectVsock, request);
  // The agent replies when it has received the proof; before that, it can only fail.
  const failed = stream.next().then(() => {
    throw new SandboxError("unavailable", "the guest agent reported a connection that it has not made");
  });
  failed.catch(() => undefined);
  let greeted: Socket | undefined;
  try {
    await orAborted(Promise.race([accepted.promise, failed]), signal);
    listener[Symbol.dispose]();
    socket!.write(proof);
    greeted = await greetedWithin({ socket: socket!, isAccepted: () => false }, greetMs, signal);
    if (greeted !== undefined) return greeted;
    throw new SandboxError("unavailable", "the guest agent connected and did not greet");
  } finally {
    isWaiting = false;
    if (greeted === undefined) socket?.destroy();
  }
}

/** How long a connected agent may take to greet, in milliseconds. Its vCPUs may wait for the processors of a busy host. */
const greetMs = 10_000;

/** How often the agent is greeted until it answers, in milliseconds: one that starts anew has lost the greeting. */
const greetAgainMs = 1_000;

/** The host's end of an agent channel over a virtio-serial port, for as long as it takes to ask for another one. */
class Conversation implements Disposable {
  readonly channel: Channel;
  readonly #port: Socket;
  #epoch = newEpoch();
  #hello = Promise.withResolvers<Hello>();
  #isGreeted = false;

  constructor(port: Socket) {
    this.#port = port;
    const write = (bytes: Uint8Array): undefined => void port.write(bytes);
    this.channel = new Channel(
      { write },
      { hello: (hello, epoch) => this.#onHello(hello, epoch), broken: (error) => this.#fail(error) },
    );
    this.#hello.promise.catch(() => undefined);
    port.on("data", (chunk: Buffer) => this.#onData(chunk));
    port.on("error", () => port.destroy());
    port.on("close", () => this.#fail(new SandboxError("unavailable", "the machine's agent socket was closed")));
    this.#startEpoch();
  }

  /** Resolves with the agent's greeting in the present epoch. */
  async greeting(signal: AbortSignal): Promise<Hello> {
    const timer = setInterval(() => {
      if (!this.#isGreeted) this.#greet();
    }, greetAgainMs);
    try {
      return await orAborted(this.#hello.promise, signal);
    } finally {
      clearInterval(timer);
    }
  }

  [Symbol.dispose](): void {
    this.#port.destroy();
  }

  #startEpoch(): void {
    this.channel.startEpoch(this.#epoch, new SandboxError("unavailable", "the guest agent was restarted"));
    this.#greet();
  }

  #awaitGreeting(): PromiseWithResolvers<Hello> {
    this.#isGreeted = false;
    this.#hello = Promise.withResolvers();
    this.#hello.promise.catch(() => undefined);
    return this.#hello;
  }

  #greet(): void {
    this.channel.sendHello({ version: "", instance: 0n }).catch(() => undefined);
  }

  #onHello(hello: Hello, epoch: number): void {
    if (epoch === this.#epoch) {
      this.#isGreeted = true;
      this.#hello.resolve(hello);
    } else if (epoch === 0 && this.#isGreeted) {
      // Another agent than the one that greeted before.
      this.#awaitGreeting();
      this.#epoch = newEpoch();
      this.#startEpoch();
    }
  }

  /** An exception that a guest's bytes cause must not leave its connection. */
  #onData(chunk: Buffer): void {
    try {
      this.channel.receive(chunk);
    } catch (cause) {
      this.#fail(new SandboxError("unavailable", "the guest agent sent bytes that cannot be handled", { cause }));
    }
  }

  #fail(error: SandboxError): void {
    this.channel.close(error);
    this.#hello.reject(error);
    // A greeting that came before counts no longer.
    if (this.#isGreeted) this.#awaitGreeting().reject(error);
    this.#port.destroy();
  }
}
