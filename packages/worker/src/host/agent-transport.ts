import { randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";

export type AgentTransportName = "virtio-serial" | "vsock";

/** The way from this process to the guest agent of one VM. */
export interface AgentTransport {
  readonly name: AgentTransportName;
  /**
   * Where a connection ends.
   * - `hypervisor`: it can be opened before the guest runs, and lasts as long as the VM.
   * - `agent`: it can be opened once the agent listens. The guest may reset it, and another one can be opened then.
   */
  readonly endsAt: "hypervisor" | "agent";
  /**
   * Opens a connection, and repeats failed attempts until `signal` aborts. A connection to an agent is returned when the
   * agent has greeted; the greeting is the first that is read from the socket, which the caller has to resume.
   * `report` receives the failure of a connection that another one takes the place of.
   * @throws `unavailable` when the hypervisor cannot be reached, or the reason of `signal`
   */
  open(signal: AbortSignal, report?: (message: string, error: unknown) => void): Promise<Socket>;
}

/** The hypervisor's end of a virtio-serial port, which is a unix socket. */
export function virtioSerialTransport(path: string): AgentTransport {
  return {
    name: "virtio-serial",
    endsAt: "hypervisor",
    async open(signal) {
      const socket = connect(path);
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      socket.once("connect", resolve);
      socket.once("error", reject);
      try {
        await orAborted(promise, signal);
      } catch (cause) {
        socket.destroy();
        if (signal.aborted) throw cause;
        throw new SandboxError("unavailable", "the machine's agent socket cannot be reached", { cause });
      }
      socket.off("error", reject);
      return socket;
    },
  };
}

/** A new epoch of an agent channel: an odd number of 32 bits; 0 stands for no epoch. */
export function newEpoch(): number {
  return (randomBytes(4).readUInt32LE() | 1) >>> 0;
}

/** One attempt to connect to a guest agent. */
export interface Attempt {
  readonly socket: Socket;
  /** Whether the guest has accepted the connection. From then on only the agent's greeting is missing. */
  readonly isAccepted: () => boolean;
}

/** How long an attempt waits to be accepted, in milliseconds. A restored guest loses the first attempts. */
const acceptMs = { first: 50, last: 2000, times: 2 } as const;

/** Pause after an attempt that failed at once, in milliseconds: a booting guest refuses until its agent listens. */
const pauseMs = 100;

/**
 * Repeats attempts until an agent greets. Returns its socket, paused, with the greeting unread. `connectOnce` returns
 * undefined for an attempt that failed at once.
 */
export async function untilGreeted(
  connectOnce: () => Promise<Attempt | undefined>,
  signal: AbortSignal,
): Promise<Socket> {
  for (let waitMs: number = acceptMs.first; ; waitMs = Math.min(acceptMs.last, waitMs * acceptMs.times)) {
    signal.throwIfAborted();
    const began = performance.now();
    const attempt = await connectOnce();
    const socket = attempt === undefined ? undefined : await greetedWithin(attempt, waitMs, signal);
    if (socket !== undefined) return socket;
    // An attempt that waited in vain needs no pause.
    const restMs = pauseMs - (performance.now() - began);
    if (restMs > 0) await orAborted(sleep(restMs), signal);
  }
}

/**
 * Waits until the agent greets on a connection. Returns its socket, paused, with the greeting unread. Undefined: the attempt
 * failed, or was not accepted in time.
 */
export async function greetedWithin(
  { socket, isAccepted }: Attempt,
  waitMs: number,
  signal: AbortSignal,
): Promise<Socket | undefined> {
  const { promise, resolve } = Promise.withResolvers<Socket | undefined>();
  const onData = (chunk: Buffer): void => {
    socket.pause();
    socket.unshift(chunk);
    resolve(socket);
  };
  const onEnd = (): void => resolve(undefined);
  socket.once("data", onData);
  for (const event of ["error", "end", "close"]) socket.once(event, onEnd);
  // A transport that reads an answer of its own first has paused it.
  socket.resume();
  const timer = setTimeout(() => {
    if (!isAccepted()) resolve(undefined);
  }, waitMs);
  let greeted: Socket | undefined;
  try {
    greeted = await orAborted(promise, signal);
    return greeted;
  } finally {
    clearTimeout(timer);
    socket.off("data", onData);
    for (const event of ["end", "close"]) socket.off(event, onEnd);
    if (greeted === undefined) socket.destroy();
    else socket.off("error", onEnd);
  }
}
