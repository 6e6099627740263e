import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import type { Client } from "@opensandbox/sdk";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { one, some, text } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";

/** A port of this host and the one that it leads to. */
interface Forwarded {
  readonly local: number;
  readonly port: number;
}

export const forward = defineCommand({
  summary: "Reach TCP ports of a sandbox as ports of this host",
  description:
    "Listens on 127.0.0.1 until Ctrl-C and passes each connection to the sandbox, where servers on localhost are reached " +
    "too. PORT is the port at both ends, LOCAL:PORT has another one here, 0:PORT any free one. The first connection " +
    "wakes a hibernated sandbox.",
  arguments: { id: one("SANDBOX"), ports: some("PORT") },
  options: { address: text("ADDRESS", "listen on another address of this host") },
  examples: [
    { line: "forward sb-1a2b3c4d 5432", shows: "reach the sandbox's PostgreSQL at 127.0.0.1:5432" },
    { line: "forward sb-1a2b3c4d 8080:80 0:9229", shows: "reach two ports, one of them on any free port" },
  ],
  check: ({ ports }) => {
    const wrong = ports.find((port) => forwardedOf(port) === undefined);
    return wrong === undefined ? undefined : `"${wrong}" is not a port: write PORT or LOCAL:PORT, from 1 to 65535`;
  },
  async run({ id, ports, address = "127.0.0.1" }, { client, print, note, signal }) {
    const connected = await client();
    await connected.sandboxes.get(id, signal);
    await using stack = new AsyncDisposableStack();
    const listening: { address: string; local: number; port: number }[] = [];
    for (const { local, port } of ports.flatMap((each) => forwardedOf(each) ?? [])) {
      const server = createServer({ allowHalfOpen: true }, (socket) => {
        pass(socket, { client: connected, id, port, signal }).catch((error: unknown) => {
          if (!signal.aborted) note(`port ${port}: ${asSandboxError(error).message}`);
        });
      });
      stack.defer(() => void server.close());
      listening.push({ address, local: await listen(server, local, address), port });
    }
    await print(listening.map(({ local, port }) => `${address}:${local} leads to port ${port} of ${id}`).join("\n"), {
      sandbox: id,
      ports: listening,
    });
    if (!signal.aborted) await once(signal, "abort");
  },
});

function forwardedOf(text: string): Forwarded | undefined {
  const [, first = "", second] = /^(\d{1,5})(?::(\d{1,5}))?$/.exec(text) ?? [];
  const [local, port] = [Number(first), Number(second ?? first)];
  return first === "" || local > 65_535 || port < 1 || port > 65_535 ? undefined : { local, port };
}

/** @throws `unavailable` when the port is in use */
async function listen(server: Server, port: number, address: string): Promise<number> {
  server.listen(port, address);
  try {
    await once(server, "listening");
  } catch (cause) {
    const message = `cannot listen on ${address}:${port}: ${(cause as Error).message}`;
    throw new SandboxError("unavailable", message, { cause });
  }
  return (server.address() as { readonly port: number }).port;
}

interface Pass {
  readonly client: Client;
  readonly id: string;
  readonly port: number;
  readonly signal: AbortSignal;
}

/** Passes one connection. Resolves when it has ended. */
async function pass(socket: Socket, { client, id, port, signal }: Pass): Promise<void> {
  const ended = new AbortController();
  socket.on("error", () => socket.destroy());
  socket.once("close", () => ended.abort());
  try {
    const connection = await client.ports.connect(id, port, AbortSignal.any([signal, ended.signal]));
    const sending = (async () => {
      for await (const chunk of socket as AsyncIterable<Buffer>) await connection.write(chunk);
      await connection.end();
    })();
    // The end of the other direction ends this one.
    sending.catch(() => socket.destroy());
    for await (const bytes of connection.incoming) {
      if (!socket.write(bytes)) await Promise.race([once(socket, "drain"), once(socket, "close")]);
    }
    socket.end();
  } catch (error) {
    if (!ended.signal.aborted) throw error;
  } finally {
    socket.destroySoon();
    ended.abort();
  }
}
