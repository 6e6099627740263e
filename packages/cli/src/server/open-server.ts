import type { Client } from "@opensandbox/sdk";
import type { Context } from "../context.ts";
import type { Progress } from "#output/progress.ts";
import { findServerAddress } from "./find-server-address.ts";

export interface OpenedServer extends AsyncDisposable {
  readonly client: Client;
  /** The server runs in this process. Disposing it ends it and its sandboxes. */
  readonly embedded: boolean;
}

/** Connects to the configured or running server. Without one, starts a server in this process. */
export async function openServer({ host, globals, signal }: Context, progress: Progress): Promise<OpenedServer> {
  const address = await findServerAddress(globals, host.env);
  if (address !== undefined) {
    const client = await host.connect(address.url.value, address.apiKey?.value);
    return { client, embedded: false, async [Symbol.asyncDispose]() {} };
  }
  progress.report("starting a server for this command");
  const { readConfig, startServer } = await import("@opensandbox/server");
  await using undo = new AsyncDisposableStack();
  const onProgress = ({ step }: { readonly step: string }): void => progress.report(step);
  const server = undo.use(await startServer(readConfig(host.env), { embedded: true, onProgress }, signal));
  const client = await host.connect(server.url, server.apiKey);
  const owned = undo.move();
  return { client, embedded: true, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
