import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readConfig, type Server, type ServerConfig, startServer } from "@opensandbox/server";

/** A complete server of its own: its data directory is new, and the built images are those of this host. */
export interface World extends AsyncDisposable {
  readonly config: ServerConfig;
  readonly server: Server;
  readonly url: string;
  readonly apiKey: string;
}

/** With QEMU, unless `env` says otherwise. */
export async function startWorld(env: Readonly<Record<string, string>> = {}): Promise<World> {
  await using undo = new AsyncDisposableStack();
  const dataDirectory = await mkdtemp(join(tmpdir(), "osb-world-"));
  undo.defer(() => rm(dataDirectory, { recursive: true, force: true }));
  await chmod(dataDirectory, 0o711);
  const config = worldConfig(dataDirectory, env);
  const server = undo.use(
    await startServer(
      config,
      { embedded: true, image: "minimal", onProgress: () => undefined },
      AbortSignal.timeout(1_800_000),
    ),
  );
  const owned = undo.move();
  return {
    config,
    server,
    url: server.url,
    apiKey: server.apiKey ?? "",
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The configuration of a server on `dataDirectory` that shares the images of this host. */
export function worldConfig(dataDirectory: string, env: Readonly<Record<string, string>> = {}): ServerConfig {
  const { imagesDirectory, templatesDirectory } = readConfig(process.env);
  return readConfig({
    OPENSANDBOX_IMAGES_DIR: imagesDirectory,
    OPENSANDBOX_TEMPLATES_DIR: templatesDirectory,
    OPENSANDBOX_DATA_DIR: dataDirectory,
    OPENSANDBOX_PORT: "0",
    ...env,
  });
}
