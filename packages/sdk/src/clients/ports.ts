import { endOfInput, openPort } from "@opensandbox/wire/public/guests/ports.ts";
import { errorFromReply, type HttpClient } from "#transport/http.ts";
import type { OpenSocket } from "#transport/socket.ts";

/** A TCP connection to a server in a sandbox. */
export interface PortConnection {
  /** Bytes from the server, until it ends the connection. Rejects when the connection cannot be made or breaks. */
  readonly incoming: AsyncIterable<Uint8Array>;
  /** Resolves when more may be written. */
  write(bytes: Uint8Array): Promise<void>;
  /** Ends this direction; the server may go on sending. */
  end(): Promise<void>;
  /** Ends the connection. */
  close(): void;
}

export interface PortsClient {
  /** Connects to a port of a sandbox, on any of its addresses. Wakes a hibernated sandbox. */
  connect(sandboxId: string, port: number, signal?: AbortSignal): Promise<PortConnection>;
}

export function portsClient(http: HttpClient, openSocket: OpenSocket): PortsClient {
  return {
    async connect(id, port, signal) {
      const socket = await openSocket(await http.socketUrl(openPort, { id, port: String(port) }), signal);
      return {
        incoming: bytesOf(socket.messages),
        write: async (bytes) => await socket.send(bytes),
        end: async () => await socket.send(endOfInput),
        close: () => socket.close(),
      };
    },
  };
}

async function* bytesOf(messages: AsyncIterable<string | Uint8Array>): AsyncGenerator<Uint8Array, void> {
  for await (const message of messages) {
    // Text is an error.
    if (typeof message === "string") throw errorFromReply(502, message);
    yield message;
  }
}
