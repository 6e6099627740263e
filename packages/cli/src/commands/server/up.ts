import { once } from "node:events";
import { styleText } from "node:util";
import type { Server, ServerConfig } from "@opensandbox/server";
import { defineCommand } from "../../command.ts";
import type { Context, Host } from "../../context.ts";
import { text, whole } from "#arguments/inputs.ts";
import { columns } from "#output/table.ts";
import { visibleText } from "#output/visible-text.ts";

export const up = defineCommand({
  summary: "Start a server in the foreground",
  description: `Prints its address when it is ready, and runs until Ctrl-C or SIGTERM. Then it hibernates its sandboxes. After
SIGUSR2 their machines keep running instead, for the next server. The log goes to standard error.

With OPENSANDBOX_MODE=server it starts the server of a fleet, and with OPENSANDBOX_MODE=worker a worker ('osb fleet init'
and 'osb worker join' come first). Both leave the sandboxes running when they end.

On this host, the same user needs no configuration to use the server. Elsewhere, set OPENSANDBOX_API_URL and
OPENSANDBOX_API_KEY, or use 'osb config set'.`,
  options: {
    host: text("ADDRESS", "the address to listen on (OPENSANDBOX_HOST, default: 127.0.0.1)"),
    port: whole("PORT", "the port to listen on; 0: any free port (OPENSANDBOX_PORT, default: 8080)"),
  },
  examples: [
    { line: "up", shows: "serve this host only" },
    { line: "up --host 0.0.0.0 --port 80", shows: "serve every host that can reach it and has the key" },
    { line: "up --json > server.json", shows: "print a line of JSON when the server is ready" },
  ],
  check: ({ port }) => (port !== undefined && port > 65_535 ? "--port must be from 0 to 65535" : undefined),
  async run({ host, port }, context) {
    const config = await configOf(host, port, context.host);
    using shown = context.progress();
    shown.report("starting the server");
    const { startServer } = await import("@opensandbox/server");
    const onProgress = ({ step }: { readonly step: string }): void => shown.report(step);
    const server = await startServer(config, { embedded: false, onProgress }, context.signal);
    await using _ = server;
    shown.pause();
    await (config.mode === "combined" ? printServer : printNode)(server, config, context);
    if (!context.signal.aborted) await once(context.signal, "abort");
    const ending = config.mode === "combined" ? "hibernating its sandboxes first" : "its sandboxes keep running";
    context.note(`stopping the ${config.mode === "worker" ? "worker" : "server"}; ${ending}`);
    return 0;
  },
});

async function configOf(host: string | undefined, port: number | undefined, { env }: Host) {
  const { readConfig } = await import("@opensandbox/server/config.ts");
  const config = readConfig(env);
  return { ...config, ...(host === undefined ? {} : { host }), ...(port === undefined ? {} : { port }) };
}

/** A node of a fleet: a server without a worker, or a worker alone. */
async function printNode(server: Server, config: ServerConfig, { print }: Context): Promise<void> {
  const { url, apiKey } = server;
  const signIn = server.createSignInLink?.();
  const { mode, dataDirectory, fleetPort } = config;
  const facts = [
    ...(mode === "worker" ? [] : [["API key", apiKey ?? "an earlier one, which this host does not store"]]),
    ...(signIn === undefined ? [] : [["dashboard", `${signIn} (once, within 15 minutes)`]]),
    ...(mode === "worker" ? [] : [["workers", `join at https://ADDRESS-OF-THIS-HOST:${fleetPort}`]]),
    ["data", dataDirectory],
  ];
  const human = `The ${mode} of the fleet is ready at ${url}\n\n${visibleText(columns(facts)).replaceAll(/^/gm, "  ")}`;
  await print(human, { url, ...(apiKey === undefined ? {} : { apiKey }), pid: process.pid, mode, dataDirectory });
}

async function printServer(server: Server, { dataDirectory }: ServerConfig, { host, print }: Context): Promise<void> {
  const { url, apiKey, description } = server;
  const { accelerator, network, hypervisor, hypervisorVersion } = description;
  const bold = (text: string): string => styleText("bold", text, { stream: host.stdout });
  const facts = [
    ["API key", apiKey ?? "an earlier one, which this host does not store; set OPENSANDBOX_API_KEY to use another"],
    ["hypervisor", `${hypervisor} ${hypervisorVersion}`],
    ["accelerator", `${accelerator.name}: ${accelerator.reason}`],
    ["network", `${network.mode}: ${network.reason}`],
    ...(network.notEnforced ?? []).map((text) => ["", `- ${text}`]),
    ["data", dataDirectory],
  ];
  const signIn = server.createSignInLink?.();
  const human = `OpenSandbox is ready at ${bold(url)}
${signIn === undefined ? "" : `Open the dashboard, once and within 15 minutes: ${signIn}\n`}
${visibleText(columns(facts)).replaceAll(/^/gm, "  ")}

Try, in another terminal:
  ${host.program} run -- uname -a
  ${host.program} create --image minimal

For programs that use E2B's clients (docs/e2b.md):
  export E2B_API_URL=${url} E2B_SANDBOX_URL=${url}
  export E2B_API_KEY=${apiKey ?? "KEY"}
`;
  await print(
    { styled: human },
    {
      url,
      ...(apiKey === undefined ? {} : { apiKey }),
      pid: process.pid,
      hypervisor,
      hypervisorVersion,
      accelerator,
      network,
      dataDirectory,
    },
  );
}
