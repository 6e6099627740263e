// A server in a process of its own, for tests that kill it: prints {url, apiKey} and runs until SIGTERM. Its sandboxes
// end with it, unless a second argument makes them persistent. OPENSANDBOX_TEST_FAKE_AGENT: the command line of the agents
// of fake machines, as JSON. OPENSANDBOX_TEST_PORT: the port; any free one without it.
import { startServer } from "@opensandbox/server";
import { armFailpoints } from "../../packages/worker/src/host/failpoints.ts";
import { worldConfig } from "./world.ts";

const [dataDirectory = "", stays] = process.argv.slice(2);
armFailpoints(process.env["OPENSANDBOX_FAILPOINTS"] ?? "");
const port = process.env["OPENSANDBOX_TEST_PORT"] ?? "0";
const fakeAgent = process.env["OPENSANDBOX_TEST_FAKE_AGENT"];
const server = await startServer(
  {
    ...worldConfig(dataDirectory, { ...process.env, OPENSANDBOX_DATA_DIR: dataDirectory, OPENSANDBOX_PORT: port }),
    ...(fakeAgent === undefined ? {} : { fakeAgent: JSON.parse(fakeAgent) as [string, ...string[]] }),
  },
  { embedded: stays === undefined, onProgress: () => undefined },
  new AbortController().signal,
);
process.stdout.write(`${JSON.stringify({ url: server.url, apiKey: server.apiKey })}\n`);
process.once("SIGTERM", () => {
  void server[Symbol.asyncDispose]().then(() => process.exit(0));
});
