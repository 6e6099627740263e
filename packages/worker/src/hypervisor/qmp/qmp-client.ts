import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import { isObject, objectIn } from "#host/protocols/json-line.ts";

export interface QmpEvent {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

interface Pending {
  readonly command: string;
  resolve(value: unknown): void;
  reject(error: SandboxError): void;
}

/** The slowest command measured takes 2 s; a monitor that takes longer than this has stopped working. */
const answerTimeoutMs = 30_000;

/** Deadline for further commands to a monitor that let one time out: it may work again, but callers wait no longer. */
const silentTimeoutMs = 1_000;

/** The longest answers describe the disks of a machine, or contain its console: less than 1 MiB. */
const maxLineBytes = 4 * 2 ** 20;

/** A line of the monitor. Its parts are of the expected types, and everything inside `data`, `return` and `error` is not. */
interface Message {
  readonly QMP?: unknown;
  readonly event?: string;
  readonly data?: Readonly<Record<string, unknown>>;
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: unknown;
}

/**
 * QEMU's monitor: commands in, answers and events out, as lines of JSON
 * (https://www.qemu.org/docs/master/interop/qmp-spec.html). A guest may have taken QEMU over. The connection closes when
 * QEMU ends, when it sends anything but messages, and when a listener fails on an event. Worst case: one line of
 * {@link maxLineBytes} and one chunk, each byte read twice, and the values of one line, some 60 MB.
 */
export class QmpClient implements Disposable {
  /** Settles when the connection is closed; never rejects. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #greeting = Promise.withResolvers<void>();
  #nextId = 1;
  /** Whether a command has timed out and nothing has arrived since. */
  #silent = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    // The connection may fail before anyone awaits the greeting.
    this.#greeting.promise.catch(() => undefined);
    // A reset is handled by "close", like any other end. The line reader repeats the socket's error.
    socket.on("error", () => socket.destroy());
    let lineBytes = 0;
    socket.on("data", (chunk: Buffer) => {
      const end = chunk.lastIndexOf("\n");
      lineBytes = end === -1 ? lineBytes + chunk.length : chunk.length - end - 1;
      if (lineBytes > maxLineBytes) socket.destroy();
    });
    createInterface({ input: socket })
      .on("error", () => socket.destroy())
      .on("line", (line) => this.#receive(line));
    socket.once("close", () => {
      const ended = qemuEnded();
      this.#greeting.reject(ended);
      for (const pending of this.#pending.values()) pending.reject(ended);
      this.#pending.clear();
      resolve();
    });
  }

  /** Connects and leaves the negotiation mode. @throws `unavailable` when QEMU does not answer */
  static async connect(path: string, signal: AbortSignal): Promise<QmpClient> {
    const client = new QmpClient(connect(path));
    const timer = setTimeout(() => {
      client.#greeting.reject(new SandboxError("unavailable", `QEMU does not answer on ${path}`));
    }, answerTimeoutMs);
    try {
      await orAborted(client.#greeting.promise, signal, canceled);
      await client.execute("qmp_capabilities");
      return client;
    } catch (error) {
      client[Symbol.dispose]();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Calls `listener` with every event that arrives until the result is disposed. */
  listen(listener: (event: QmpEvent) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** @throws `unavailable` when QEMU has ended or does not answer, `internal` when it refuses the command */
  async execute(command: string, parameters?: object): Promise<unknown> {
    if (this.#socket.destroyed) throw qemuEnded();
    const id = this.#nextId;
    this.#nextId += 1;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const timer = setTimeout(
      () => {
        this.#silent = true;
        this.#pending.delete(id);
        reject(new SandboxError("unavailable", `QEMU does not answer the command ${command}`));
      },
      this.#silent ? silentTimeoutMs : answerTimeoutMs,
    );
    this.#pending.set(id, { command, resolve, reject });
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: parameters, id })}\n`);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Settles as `promise` does. @throws `unavailable` when QEMU ends first */
  async whileOpen<Value>(promise: Promise<Value>): Promise<Value> {
    const ended = this.closed.then(() => Promise.reject(qemuEnded()));
    return await Promise.race([promise, ended]);
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  #receive(line: string): void {
    // After an invalid line, more lines of the same chunk may follow.
    if (this.#socket.destroyed) return;
    this.#silent = false;
    const message = messageIn(line);
    if (message === undefined) {
      this.#socket.destroy();
    } else if (message.QMP !== undefined) {
      this.#greeting.resolve();
    } else if (message.event !== undefined) {
      const event = { event: message.event, ...(message.data === undefined ? {} : { data: message.data }) };
      this.#notify(event);
    } else if (message.id !== undefined) {
      const pending = this.#pending.get(message.id);
      this.#pending.delete(message.id);
      if (message.error === undefined) {
        pending?.resolve(message.return);
      } else {
        const { command } = pending ?? { command: "" };
        const reason = descriptionOf(message.error);
        pending?.reject(new SandboxError("internal", `QEMU refuses the command ${command}: ${reason}`));
      }
    }
  }

  #notify(event: QmpEvent): void {
    try {
      for (const listener of this.#listeners) listener(event);
    } catch {
      // The event's data is not of the shape that QEMU documents.
      this.#socket.destroy();
    }
  }
}

/** Undefined for a line that is not a message. Pure. */
export function messageIn(line: string): Message | undefined {
  const value = objectIn(line);
  if (value === undefined) return undefined;
  const { event, data, id } = value;
  const isMessage =
    (event === undefined || typeof event === "string") &&
    (data === undefined || isObject(data)) &&
    (id === undefined || typeof id === "number");
  return isMessage ? value : undefined;
}

function descriptionOf(error: unknown): string {
  return isObject(error) && typeof error["desc"] === "string" ? error["desc"] : "it gives no reason";
}

function qemuEnded(): SandboxError {
  return new SandboxError("unavailable", "QEMU has ended");
}

function canceled({ reason }: AbortSignal): SandboxError {
  return new SandboxError("canceled", "canceled", { cause: reason });
}
