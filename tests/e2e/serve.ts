// A server in a process of its own, for tests that kill it: prints {url, apiKey} and runs until SIGTERM. Its sandboxes
// end with it, unless a second argument makes them persistent.
import { startServer } from "@opensandbox/server";
import { armFailpoints } from "../../packages/worker/src/host/failpoints.ts";
import { worldConfig } from "./world.ts";

const [dataDirectory = "", stays] = process.argv.slice(2);
armFailpoints(process.env["OPENSANDBOX_FAILPOINTS"] ?? "");
const server = await startServer(
  worldConfig(dataDirectory, { ...process.env, OPENSANDBOX_DATA_DIR: dataDirectory, OPENSANDBOX_PORT: "0" }),
  { embedded: stays === undefined, onProgress: () => undefined },
  new AbortController().signal,
);
process.stdout.write(`${JSON.stringify({ url: server.url, apiKey: server.apiKey })}\n`);
process.once("SIGTERM", () => {
  void server[Symbol.asyncDispose]().then(() => process.exit(0));
});
