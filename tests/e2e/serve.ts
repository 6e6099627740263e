// A server in a process of its own, for tests that kill it: prints {url, apiKey} and runs until SIGTERM.
import { startServer } from "@opensandbox/server";
import { worldConfig } from "./world.ts";

const [dataDirectory = ""] = process.argv.slice(2);
const server = await startServer(
  worldConfig(dataDirectory),
  { embedded: true, onProgress: () => undefined },
  new AbortController().signal,
);
process.stdout.write(`${JSON.stringify({ url: server.url, apiKey: server.apiKey })}\n`);
process.once("SIGTERM", () => {
  void server[Symbol.asyncDispose]().then(() => process.exit(0));
});
