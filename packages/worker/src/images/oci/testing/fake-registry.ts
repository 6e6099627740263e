import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type Blob, digest, type TestImage } from "./layers.ts";

/** Answers a request itself, or returns false to leave it to the registry. */
export type Interference = (request: IncomingMessage, response: ServerResponse) => boolean;

/** A registry in this process, for answers that a real one gives only on a bad day. */
export class FakeRegistry implements AsyncDisposable {
  readonly #server = createServer((request, response) => this.#answer(request, response));
  readonly #manifests = new Map<string, Blob>();
  readonly #blobs = new Map<string, Blob>();
  readonly requests: {
    readonly path: string;
    readonly authorization: string | undefined;
    readonly range: string | undefined;
  }[] = [];
  interfere: Interference = () => false;

  static async start(): Promise<FakeRegistry> {
    const registry = new FakeRegistry();
    registry.#server.listen(0, "127.0.0.1");
    await once(registry.#server, "listening");
    return registry;
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Serves an image under a name such as `a/b:tag`; further manifests by their digests only. */
  add(name: string, { manifest, blobs }: TestImage, ...more: readonly TestImage[]): void {
    const repository = name.slice(0, name.lastIndexOf(":"));
    this.#manifests.set(`/v2/${repository}/manifests/${name.slice(repository.length + 1)}`, manifest);
    for (const image of [{ manifest, blobs }, ...more]) {
      this.#manifests.set(`/v2/${repository}/manifests/${digest(image.manifest.bytes)}`, image.manifest);
      for (const blob of image.blobs) this.#blobs.set(`/v2/${repository}/blobs/${digest(blob.bytes)}`, blob);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? "";
    const { authorization, range } = request.headers;
    this.requests.push({ path, authorization, range });
    if (this.interfere(request, response)) return;
    const found = this.#manifests.get(path) ?? this.#blobs.get(path);
    if (found === undefined) {
      response.writeHead(404).end();
      return;
    }
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
    response.writeHead(from > 0 ? 206 : 200, { "content-type": found.mediaType });
    response.end(found.bytes.subarray(from));
  }
}
