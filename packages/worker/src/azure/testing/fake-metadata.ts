import { once } from "node:events";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";

/** An event as the service of Azure shows it. */
export interface ShownEvent {
  readonly EventId: string;
  readonly EventType: string;
  readonly Resources: readonly string[];
  EventStatus: string;
  NotBefore: string;
}

/** The instance metadata service of the machine `vm-1`. */
export class FakeMetadata implements AsyncDisposable {
  readonly endpoint: string;
  events: ShownEvent[] = [];
  /** Events that the machine let Azure begin. */
  readonly approved: string[] = [];
  /** Status codes of the next replies, each used once. */
  readonly faults: number[] = [];
  /** Services for which tokens were requested. */
  readonly tokensFor: string[] = [];
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
    this.endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on("request", (request, response) => {
      void this.#answer(request).then(({ status, body }) => {
        response.writeHead(status, { "content-type": "application/json" });
        response.end(body === undefined ? "" : JSON.stringify(body));
      });
    });
  }

  static async start(): Promise<FakeMetadata> {
    const server = createServer();
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return new FakeMetadata(server);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  async #answer(request: IncomingMessage): Promise<{ readonly status: number; readonly body?: unknown }> {
    const { pathname, searchParams } = new URL(request.url ?? "/", this.endpoint);
    const sent = await text(request);
    if (request.headers["metadata"] !== "true" || !searchParams.has("api-version")) return { status: 400 };
    const fault = this.faults.shift();
    if (fault !== undefined) return { status: fault };
    switch (`${request.method} ${pathname}`) {
      case "GET /metadata/identity/oauth2/token": {
        const resource = searchParams.get("resource") ?? "";
        this.tokensFor.push(resource);
        return { status: 200, body: { access_token: `token for ${resource}`, expires_on: "4000000000", resource } };
      }
      case "GET /metadata/instance/compute":
        return { status: 200, body: { name: "vm-1", vmScaleSetName: "workers" } };
      case "GET /metadata/scheduledevents":
        return { status: 200, body: { DocumentIncarnation: 1, Events: this.events } };
      case "POST /metadata/scheduledevents": {
        const { StartRequests: starts } = JSON.parse(sent) as { StartRequests: { EventId: string }[] };
        this.approved.push(...starts.map(({ EventId }) => EventId));
        return { status: 200 };
      }
      default:
        return { status: 404 };
    }
  }
}
