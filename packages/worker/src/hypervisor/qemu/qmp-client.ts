import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { SandboxError } from "@opensandbox/wire/errors.ts";

export interface QmpEvent {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

interface Pending {
  readonly command: string;
  resolve(value: unknown): void;
  reject(error: SandboxError): void;
}

// A monitor that says nothing for so long does not work any more; the slowest command measured takes 2 s.
const answerTimeoutMs = 30_000;

/** One that has let a command wait so long gets the next ones too, for when it works again, but little more time. */
const silentTimeoutMs = 1_000;

/**
 * QEMU's monitor: commands in, answers and events out, as lines of JSON
 * (https://www.qemu.org/docs/master/interop/qmp-spec.html). Closed together with QEMU.
 */
export class QmpClient implements Disposable {
  /** Settles when the connection is gone; never rejects. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #onEvent: (event: QmpEvent) => void;
  readonly #greeting = Promise.withResolvers<void>();
  #nextId = 1;
  /** It owes an answer and has said nothing since. */
  #silent = false;

  constructor(socket: Socket, onEvent: (event: QmpEvent) => void) {
    this.#socket = socket;
    this.#onEvent = onEvent;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    // The greeting may be waited for by nobody when the connection fails before.
    this.#greeting.promise.catch(() => undefined);
    // A reset connection is an end like any other; "close" says what it means. The lines' own reader passes it on too.
    socket.on("error", () => socket.destroy());
    createInterface({ input: socket })
      .on("error", () => socket.destroy())
      .on("line", (line) => this.#receive(line));
    socket.once("close", () => {
      const gone = new SandboxError("unavailable", "QEMU has ended");
      this.#greeting.reject(gone);
      for (const pending of this.#pending.values()) pending.reject(gone);
      this.#pending.clear();
      resolve();
    });
  }

  /** Connects and leaves the negotiation mode. */
  static async connect(path: string, onEvent: (event: QmpEvent) => void, signal: AbortSignal): Promise<QmpClient> {
    const client = new QmpClient(connect(path), onEvent);
    const timer = setTimeout(() => {
      client.#greeting.reject(new SandboxError("unavailable", "QEMU does not answer"));
    }, answerTimeoutMs);
    try {
      await abortable(client.#greeting.promise, signal);
      await client.execute("qmp_capabilities");
      return client;
    } catch (error) {
      client[Symbol.dispose]();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** @throws `unavailable` when QEMU is gone or silent, `internal` when it refuses the command */
  async execute(command: string, parameters?: object): Promise<unknown> {
    if (this.#socket.destroyed) throw new SandboxError("unavailable", "QEMU has ended");
    const id = this.#nextId;
    this.#nextId += 1;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const timer = setTimeout(
      () => {
        this.#silent = true;
        this.#pending.delete(id);
        reject(new SandboxError("unavailable", `QEMU does not answer ${command}`));
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

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  #receive(line: string): void {
    this.#silent = false;
    const message = JSON.parse(line) as {
      QMP?: object;
      event?: string;
      data?: Record<string, unknown>;
      id?: number;
      return?: unknown;
      error?: { class: string; desc: string };
    };
    if (message.QMP !== undefined) {
      this.#greeting.resolve();
    } else if (message.event !== undefined) {
      this.#onEvent({ event: message.event, ...(message.data === undefined ? {} : { data: message.data }) });
    } else if (message.id !== undefined) {
      const pending = this.#pending.get(message.id);
      this.#pending.delete(message.id);
      if (message.error === undefined) {
        pending?.resolve(message.return);
      } else {
        const { command } = pending ?? { command: "a command" };
        pending?.reject(new SandboxError("internal", `QEMU refuses ${command}: ${message.error.desc}`));
      }
    }
  }
}

async function abortable<Value>(promise: Promise<Value>, signal: AbortSignal): Promise<Value> {
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(new SandboxError("canceled", "canceled", { cause: signal.reason }));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
