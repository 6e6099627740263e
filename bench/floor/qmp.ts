import { once } from "node:events";
import { rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { within } from "@opensandbox/wire/testing/eventually.ts";

interface Message {
  readonly QMP?: object;
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
  readonly event?: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

/** A socket that QEMU connects to, so that no client has to poll for it. */
export interface QmpListener extends Disposable {
  readonly path: string;
  /** Settles when QEMU has connected and accepts commands. */
  readonly connected: Promise<Qmp>;
}

export async function listenForQmp(path: string): Promise<QmpListener> {
  await rm(path, { force: true });
  const server = createServer();
  server.listen(path);
  await once(server, "listening");
  const connected = accept(server);
  connected.catch(() => undefined);
  return { path, connected, [Symbol.dispose]: () => void server.close() };
}

async function accept(server: Server): Promise<Qmp> {
  const [socket] = (await within("QEMU connects to its monitor's socket", once(server, "connection"), 120_000)) as [
    Socket,
  ];
  const qmp = new Qmp(socket);
  await qmp.execute("qmp_capabilities");
  return qmp;
}

/** QEMU's monitor: commands and events as lines of JSON. */
export class Qmp {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #events: (PromiseWithResolvers<void> & { readonly matches: (message: Message) => boolean })[] = [];
  #nextId = 1;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("error", () => socket.destroy());
    createInterface({ input: socket })
      .on("error", () => socket.destroy())
      .on("line", (line) => this.#receive(JSON.parse(line) as Message));
    socket.on("close", () => {
      for (const { reject } of [...this.#waiting.values(), ...this.#events])
        reject(new Error("the raw QEMU has ended"));
    });
  }

  async execute(command: string, parameters: object = {}): Promise<unknown> {
    const id = this.#nextId++;
    const answer = Promise.withResolvers<unknown>();
    this.#waiting.set(id, answer);
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: parameters, id })}\n`);
    return await answer.promise;
  }

  /** Resolves with the next event that `matches` accepts. */
  async event(matches: (event: string, data: Readonly<Record<string, unknown>>) => boolean): Promise<void> {
    const wanted = Promise.withResolvers<void>();
    this.#events.push({ ...wanted, matches: ({ event = "", data = {} }) => matches(event, data) });
    await wanted.promise;
  }

  #receive(message: Message): void {
    if (message.event !== undefined) {
      for (const wanted of [...this.#events]) {
        if (!wanted.matches(message)) continue;
        this.#events.splice(this.#events.indexOf(wanted), 1);
        wanted.resolve();
      }
      return;
    }
    const waiting = this.#waiting.get(message.id ?? 0);
    this.#waiting.delete(message.id ?? 0);
    if (message.error === undefined) waiting?.resolve(message.return);
    else waiting?.reject(new Error(`the raw QEMU refuses: ${message.error.desc}`));
  }
}
