import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";

/** An image as it is pushed: its manifest, and the blobs that the manifest names. */
export interface PushedImage {
  readonly manifest: { readonly mediaType: string; readonly bytes: Buffer };
  readonly blobs: readonly { readonly bytes: Buffer }[];
}

/** Debian's docker-registry on a free port of this host, with a store of its own. */
export class Registry implements AsyncDisposable {
  readonly host: string;
  readonly #child: ChildProcess;
  readonly #directory: string;

  static async start(): Promise<Registry> {
    const directory = await mkdtemp(join(tmpdir(), "osb-registry-"));
    const port = await freePort();
    const config = join(directory, "config.yml");
    // https://distribution.github.io/distribution/about/configuration/
    const settings = {
      version: 0.1,
      log: { level: "error" },
      storage: { filesystem: { rootdirectory: join(directory, "store") } },
      http: { addr: `127.0.0.1:${port}`, secret: "of the test" },
    };
    await writeFile(config, JSON.stringify(settings));
    const child = spawn("docker-registry", ["serve", config], { stdio: "ignore" });
    const registry = new Registry(`127.0.0.1:${port}`, child, directory);
    await eventually(
      "the registry answers",
      async () => (await fetch(`${registry.origin}/v2/`).catch(() => undefined))?.ok === true,
      { withinMs: 60_000, everyMs: 100 },
    );
    return registry;
  }

  private constructor(host: string, child: ChildProcess, directory: string) {
    this.host = host;
    this.#child = child;
    this.#directory = directory;
  }

  get origin(): string {
    return `http://${this.host}`;
  }

  /** Pushes an image, as the OCI Distribution Specification has it, and returns the name to pull it by. */
  async push(repository: string, tag: string, { manifest, blobs }: PushedImage): Promise<string> {
    for (const { bytes } of blobs) {
      const begun = await fetch(`${this.origin}/v2/${repository}/blobs/uploads/`, { method: "POST" });
      const place = new URL(begun.headers.get("location") ?? "", this.origin);
      place.searchParams.set("digest", `sha256:${createHash("sha256").update(bytes).digest("hex")}`);
      await this.#put(place, bytes, "application/octet-stream");
    }
    await this.#put(new URL(`/v2/${repository}/manifests/${tag}`, this.origin), manifest.bytes, manifest.mediaType);
    return `${this.host}/${repository}:${tag}`;
  }

  async #put(url: URL, bytes: Buffer, contentType: string): Promise<void> {
    const body = new Uint8Array(bytes);
    const response = await fetch(url, { method: "PUT", body, headers: { "content-type": contentType } });
    if (response.status !== 201) throw new Error(`${url.pathname}: ${response.status} ${await response.text()}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null) {
      this.#child.kill("SIGKILL");
      await once(this.#child, "exit");
    }
    await rm(this.#directory, { recursive: true });
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
