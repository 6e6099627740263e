import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { flag, list, text, whole } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";

const readOnlyTools = ["list_sandboxes", "read_file", "list_files"];
const allTools = [
  ...["create_sandbox", "list_sandboxes", "run_command", "read_file", "write_file", "list_files", "preview_url"],
  ...["create_checkpoint", "fork_checkpoint", "kill_sandbox"],
];

export const mcp = defineCommand({
  summary: "Serve the Model Context Protocol, for AI agents",
  description: `An agent gets tools to create sandboxes, run commands, read and write files, name ports, and make checkpoints and
forks. It may use the sandboxes that it has created itself, and those of --sandboxes. They are deleted when the agent
disconnects, unless --keep is given.

The protocol is on standard input and output. With --http it is on a port, for agents that send the token: they share the
limits and the sandboxes, which are deleted when this command ends.

Tools: create_sandbox, list_sandboxes, run_command, read_file, write_file, list_files, preview_url, create_checkpoint,
fork_checkpoint, kill_sandbox.`,
  options: {
    sandboxes: list("existing sandboxes that the agent may use as well"),
    tools: list("only these tools"),
    readOnly: flag("only tools that change nothing"),
    maxSandboxes: whole("N", "sandboxes that the agent may have at once (default: 5)"),
    maxMemory: whole("MB", "memory that a sandbox may have (default: 4096)"),
    maxSeconds: whole("SECONDS", "the longest time of one command (default: 300)"),
    maxOutput: whole("BYTES", "output of a command, or of a file, in one answer (default: 65536)"),
    http: whole("PORT", "serve HTTP on this port instead; 0: one that is free"),
    hostname: text("ADDRESS", "the address for --http (default: 127.0.0.1)"),
    tokenFile: text("FILE", "the token for --http (default: a new one, which is printed)"),
    keep: flag("keep the agent's sandboxes when it disconnects"),
    name: text("NAME", "the name that the agent sees (default: opensandbox)"),
  },
  examples: [
    { line: "claude mcp add sandbox -- osb mcp", shows: "give Claude Code sandboxes" },
    { line: "mcp --max-sandboxes 1 --max-seconds 60", shows: "allow one sandbox and short commands" },
    { line: "mcp --http 8090", shows: "serve agents that connect by HTTP" },
    { line: "mcp --read-only --sandboxes sb-1a2b3c4d", shows: "let an agent look at one sandbox" },
  ],
  check({ tools, readOnly, http, hostname, tokenFile }) {
    if (http === undefined && (hostname ?? tokenFile) !== undefined) return "--hostname and --token-file need --http";
    if (http !== undefined && http > 65_535) return `--http: ${http} is no port`;
    if (readOnly && tools !== undefined) return "--read-only and --tools exclude each other";
    const unknown = tools?.find((name) => !allTools.includes(name));
    return unknown === undefined ? undefined : `--tools: "${unknown}" is unknown: use ${allTools.join(", ")}`;
  },
  async run(input, { host, client, note, print, signal }) {
    const { sandboxes = [], tools, readOnly, maxSandboxes = 5, maxMemory = 4096, keep } = input;
    const { maxSeconds = 300, maxOutput = 65_536, name = "opensandbox" } = input;
    const limits = { maxSandboxes, maxMemoryMib: maxMemory, maxSeconds, maxOutputBytes: maxOutput, sandboxes, keep };
    // Loaded here, because no other command needs the protocol.
    const { StdioServerTransport } = await import("@modelcontextprotocol/sdk/server/stdio.js");
    const { McpTools } = await import("./mcp-tools.ts");
    const { mcpServer } = await import("./mcp-server.ts");
    await using own = new McpTools(await client(), limits);
    const makeServer = () => mcpServer(own, { name, tools: readOnly ? readOnlyTools : (tools ?? allTools) });
    const { http, hostname = "127.0.0.1", tokenFile } = input;
    if (http !== undefined) {
      const { serveHttp } = await import("./serve-http.ts");
      const token = tokenFile === undefined ? randomHex(24) : (await readFile(tokenFile, "utf8")).trim();
      if (token.length < 16)
        throw new SandboxError("invalid_argument", `${tokenFile}: the token has fewer than 16 characters`);
      await using serving = await serveHttp({ hostname, port: http, token, makeServer, report: note });
      const lines = [serving.url, ...(tokenFile === undefined ? [`Authorization: Bearer ${token}`] : [])];
      await print(lines.join("\n"), { url: serving.url, ...(tokenFile === undefined ? { token } : {}) });
      note("serving tools by HTTP; Ctrl-C ends");
      if (!signal.aborted) await once(signal, "abort");
      return;
    }
    const server = makeServer();
    await server.connect(new StdioServerTransport(host.stdin, host.stdout));
    note(`serving ${readOnly ? "read-only " : ""}tools on standard input and output; Ctrl-C ends`);
    await Promise.race([once(host.stdin, "end"), once(host.stdin, "close"), once(signal, "abort")]);
    await server.close();
  },
});
