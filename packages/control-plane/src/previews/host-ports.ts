import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { pipeline } from "node:stream/promises";
import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import { openGuestPort } from "./open-guest-port.ts";
import { portStream } from "./port-stream.ts";

/** Whoever is on this host may connect; others come by preview URLs, which can be guarded. */
const address = "127.0.0.1";

/**
 * Ports of this host that lead to a port of a sandbox each, for whatever is not HTTP. A connection wakes its sandbox.
 * Disposing it closes all of them.
 */
export class HostPorts implements AsyncDisposable {
  readonly #context: SandboxContext;
  readonly #servers = new Map<SandboxId, Server>();
  readonly #sockets = new Map<Socket, SandboxId>();

  constructor(context: SandboxContext) {
    this.#context = context;
  }

  /** Opens the port of a sandbox that has asked for one, the same as before if it is free. Returns it as its row has it. */
  async open(sandbox: Sandbox): Promise<Sandbox> {
    const { id, forwardedPort, hostPort } = sandbox;
    if (forwardedPort === undefined || this.#servers.has(id)) return sandbox;
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      this.#serve(sandbox, forwardedPort, socket).catch((error: unknown) => {
        this.#context.log("warn", "a connection to a sandbox's port failed", { sandbox: id, ...describeError(error) });
        socket.destroy();
      });
    });
    this.#servers.set(id, server);
    const port = await listen(server, hostPort ?? 0).catch(() => listen(server, 0));
    server.unref();
    return port === hostPort ? sandbox : this.#context.store.update(id, { hostPort: port });
  }

  close(id: SandboxId): void {
    this.#servers.get(id)?.close();
    this.#servers.delete(id);
    for (const [socket, sandbox] of this.#sockets) if (sandbox === id) socket.destroy();
  }

  /** Closes those of sandboxes that have ended. */
  async sweep(): Promise<void> {
    for (const id of this.#servers.keys()) {
      const sandbox = await this.#context.store.find(id);
      if (sandbox === undefined || sandbox.state === "stopped") this.close(id);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const id of this.#servers.keys()) this.close(id);
    await Promise.resolve();
  }

  async #serve({ organizationId, id }: Sandbox, port: number, socket: Socket): Promise<void> {
    this.#sockets.set(socket, id);
    const gone = new AbortController();
    socket.on("error", () => socket.destroy());
    socket.once("close", () => {
      this.#sockets.delete(socket);
      gone.abort();
    });
    const signal = AbortSignal.any([gone.signal, this.#context.ending]);
    try {
      const use = await useSandbox(this.#context, organizationId, id, signal);
      try {
        const connection = await openGuestPort(this.#context.worker, id, port, signal);
        const stream = portStream(connection, () => gone.abort());
        signal.addEventListener("abort", () => stream.destroy(), { once: true });
        socket.on("data", () => use.touch());
        stream.on("data", () => use.touch());
        // Both ends see for themselves how it ends.
        await Promise.all([pipeline(socket, stream), pipeline(stream, socket)]).catch(() => undefined);
      } finally {
        use[Symbol.dispose]();
      }
    } catch (error) {
      if (!signal.aborted && !isSandboxError(error)) throw error;
    } finally {
      socket.resetAndDestroy();
    }
  }
}

async function listen(server: Server, port: number): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen({ host: address, port }, resolve);
  try {
    await promise;
  } finally {
    server.off("error", reject);
  }
  return (server.address() as AddressInfo).port;
}
