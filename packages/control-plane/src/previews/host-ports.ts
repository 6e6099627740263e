import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { pipeline } from "node:stream/promises";
import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import { openGuestPort } from "./open-guest-port.ts";
import { portStream } from "./port-stream.ts";

/** Only processes of this host may connect: a forwarded port has no token, unlike a preview. */
const address = "127.0.0.1";

/**
 * Ports of this host that each forward to a port of a sandbox, for protocols other than HTTP. A connection wakes its
 * sandbox. Disposing closes all of them.
 */
export class HostPorts implements AsyncDisposable {
  readonly #context: SandboxContext;
  readonly #servers = new Map<SandboxId, Server>();
  readonly #sockets = new Map<Socket, SandboxId>();

  constructor(context: SandboxContext) {
    this.#context = context;
  }

  /** Opens the port that a sandbox asked for, the same as before when that is free. Returns the sandbox with its port. */
  async open(sandbox: Sandbox): Promise<Sandbox> {
    const { id, forwardedPort, hostPort } = sandbox;
    if (forwardedPort === undefined || this.#servers.has(id)) return sandbox;
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      this.#serve(sandbox, forwardedPort, socket).catch((error: unknown) => {
        this.#context.log("warn", "a connection to a forwarded port failed", { sandbox: id, ...describeError(error) });
        socket.destroy();
      });
    });
    this.#servers.set(id, server);
    const port = await listen(server, hostPort ?? 0).catch(() => listen(server, 0));
    // Accepting fails when the process has no free file descriptor; the connections that exist go on.
    server.on("error", (error) => {
      this.#context.log("error", "cannot accept a connection to a forwarded port", {
        sandbox: id,
        ...describeError(error),
      });
    });
    server.unref();
    return port === hostPort ? sandbox : this.#context.stores.sandboxes.update(id, { hostPort: port });
  }

  close(id: SandboxId): void {
    this.#servers.get(id)?.close();
    this.#servers.delete(id);
    for (const [socket, sandbox] of this.#sockets) if (sandbox === id) socket.destroy();
  }

  /** Closes the ports of sandboxes that have ended. */
  async sweep(): Promise<void> {
    for (const id of this.#servers.keys()) {
      const sandbox = await this.#context.stores.sandboxes.find(id);
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
    const signal = AbortSignal.any([gone.signal, this.#context.shutdown.ending]);
    try {
      const use = await useSandbox(this.#context, organizationId, id, signal);
      try {
        const connection = await openGuestPort(this.#context.worker, id, port, signal);
        const stream = portStream(connection, () => gone.abort());
        signal.addEventListener("abort", () => stream.destroy(), { once: true });
        socket.on("data", () => use.touch());
        stream.on("data", () => use.touch());
        // Both peers see the close; there is nothing to report.
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
