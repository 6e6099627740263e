import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { connectForeignSocket } from "#host/kernel/foreign-files.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";

export interface ApiRequest {
  readonly method: "GET" | "PUT" | "PATCH";
  readonly path: string;
  readonly body?: object;
}

interface Pending {
  readonly request: ApiRequest;
  resolve(value: unknown): void;
  reject(error: SandboxError): void;
}

/** The slowest request reads a snapshot's state; an API that takes longer than this has stopped working. */
const answerTimeoutMs = 30_000;

/** Deadline for further requests to an API that let one time out: it may work again, but callers wait no longer. */
const silentTimeoutMs = 1_000;

/** Deadline for the first connection. The process makes its socket within milliseconds, and in seconds on a busy host. */
const connectTimeoutMs = 30_000;

/** How often a socket that does not exist yet is tried. */
const connectEveryMs = 5;

/** The longest answer describes a VM's configuration: less than 16 KiB. */
const maxAnswerBytes = 2 ** 20;

/**
 * Firecracker's API: requests of HTTP/1.1 in one connection, answered in their order. The connection closes when
 * Firecracker ends, or when it sends anything but answers.
 */
export class ApiClient implements Disposable {
  /** Settles when the connection is closed; never rejects. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #pending: Pending[] = [];
  #received = Buffer.alloc(0);
  /** Whether a request has timed out and nothing has arrived since. */
  #silent = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    // A reset is handled by "close", like any other end.
    socket.on("error", () => socket.destroy());
    socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    socket.once("close", () => {
      for (const pending of this.#pending.splice(0)) pending.reject(ended());
      resolve();
    });
  }

  /**
   * Connects as soon as the socket `path` exists. `gone` settles when no process will make it.
   * @throws `unavailable` when nothing listens in time
   */
  static async connect(path: string, signal: AbortSignal, gone?: Promise<unknown>): Promise<ApiClient> {
    const deadline = performance.now() + connectTimeoutMs;
    let isGone = false;
    void gone?.then(() => {
      isGone = true;
    });
    for (;;) {
      if (signal.aborted) throw new SandboxError("canceled", "canceled", { cause: signal.reason });
      const socket = await tryConnect(path);
      if (socket !== undefined) return new ApiClient(socket);
      if (isGone) throw ended();
      if (gone === undefined || performance.now() > deadline) {
        throw new SandboxError("unavailable", `Firecracker does not answer on ${path}`);
      }
      await sleep(connectEveryMs);
    }
  }

  /** @throws `unavailable` when Firecracker has ended or does not answer, `internal` when it refuses the request */
  async request(request: ApiRequest): Promise<unknown> {
    if (this.#socket.destroyed) throw ended();
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const timer = setTimeout(
      () => {
        this.#silent = true;
        reject(new SandboxError("unavailable", `Firecracker does not answer ${request.method} ${request.path}`));
      },
      this.#silent ? silentTimeoutMs : answerTimeoutMs,
    );
    // A request that timed out keeps its place: answers carry no id.
    this.#pending.push({ request, resolve, reject });
    const body = request.body === undefined ? "" : JSON.stringify(request.body);
    this.#socket.write(
      `${request.method} ${request.path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n` +
        `Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    );
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    this.#silent = false;
    this.#received = Buffer.concat([this.#received, chunk]);
    for (;;) {
      const answer = answerIn(this.#received);
      if (answer === "incomplete" && this.#received.length <= maxAnswerBytes) return;
      const pending = answer === "incomplete" || answer === "invalid" ? undefined : this.#pending.shift();
      if (pending === undefined || answer === "incomplete" || answer === "invalid") {
        this.#socket.destroy();
        return;
      }
      this.#received = this.#received.subarray(answer.bytes);
      if (answer.status >= 200 && answer.status < 300) pending.resolve(answer.body);
      else pending.reject(refusal(pending.request, answer));
    }
  }
}

/** Undefined where nothing listens. */
async function tryConnect(path: string): Promise<Socket | undefined> {
  const { promise, resolve } = Promise.withResolvers<Socket | undefined>();
  const socket = connectForeignSocket(path);
  if (socket === undefined) return undefined;
  socket.once("connect", () => resolve(socket)).once("error", () => resolve(undefined));
  return await promise;
}

interface Answer {
  readonly status: number;
  /** Undefined for an answer without content. */
  readonly body: unknown;
  /** The length of the answer with its status line and headers. */
  readonly bytes: number;
}

/** The answer that `received` begins with. */
function answerIn(received: Buffer): Answer | "incomplete" | "invalid" {
  const end = received.indexOf("\r\n\r\n");
  if (end === -1) return "incomplete";
  const [statusLine = "", ...headers] = received.toString("latin1", 0, end).split("\r\n");
  const status = Number(/^HTTP\/1\.[01] (\d{3})\b/.exec(statusLine)?.[1]);
  const lengths = headers.flatMap((header) => /^content-length:\s*(\d{1,7})$/i.exec(header)?.[1] ?? []);
  if (Number.isNaN(status) || lengths.length > 1) return "invalid";
  const bytes = end + 4 + Number(lengths[0] ?? 0);
  if (received.length < bytes) return "incomplete";
  const text = received.toString("utf8", end + 4, bytes);
  try {
    return { status, body: text === "" ? undefined : JSON.parse(text), bytes };
  } catch {
    return "invalid";
  }
}

/** Firecracker refuses with an object that has a message. */
function refusal({ method, path }: ApiRequest, { status, body }: Answer): SandboxError {
  const said = (body as { readonly fault_message?: unknown } | null | undefined)?.fault_message;
  const why = typeof said === "string" ? said : `status ${status}`;
  return new SandboxError("internal", `Firecracker refuses ${method} ${path}: ${why}`);
}

function ended(): SandboxError {
  return new SandboxError("unavailable", "Firecracker has ended");
}
