import { once } from "node:events";
import { flag, list, text, whole } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";

const readOnlyTools = ["list_sandboxes", "read_file", "list_files"];
const allTools = [
  ...["create_sandbox", "list_sandboxes", "run_command", "read_file", "write_file", "list_files", "preview_url"],
  ...["create_checkpoint", "fork_checkpoint", "kill_sandbox"],
];

export const mcp = defineCommand({
  summary: "Serve the Model Context Protocol on standard input and output, for AI agents",
  description: `An agent gets tools to create sandboxes, run commands, read and write files, name ports, and make checkpoints and
forks. It may use the sandboxes that it has created itself, and those of --sandboxes. They are deleted when the agent
disconnects, unless --keep is given.

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
    keep: flag("keep the agent's sandboxes when it disconnects"),
    name: text("NAME", "the name that the agent sees (default: opensandbox)"),
  },
  examples: [
    { line: "claude mcp add sandbox -- osb mcp", shows: "give Claude Code sandboxes" },
    { line: "mcp --max-sandboxes 1 --max-seconds 60", shows: "allow one sandbox and short commands" },
    { line: "mcp --read-only --sandboxes sb-1a2b3c4d", shows: "let an agent look at one sandbox" },
  ],
  check({ tools, readOnly }) {
    if (readOnly && tools !== undefined) return "--read-only and --tools exclude each other";
    const unknown = tools?.find((name) => !allTools.includes(name));
    return unknown === undefined ? undefined : `--tools: "${unknown}" is unknown: use ${allTools.join(", ")}`;
  },
  async run(input, { host, client, note, signal }) {
    const { sandboxes = [], tools, readOnly, maxSandboxes = 5, maxMemory = 4096, keep } = input;
    const { maxSeconds = 300, maxOutput = 65_536, name = "opensandbox" } = input;
    const limits = { maxSandboxes, maxMemoryMib: maxMemory, maxSeconds, maxOutputBytes: maxOutput, sandboxes, keep };
    // Loaded here, because no other command needs the protocol.
    const { StdioServerTransport } = await import("@modelcontextprotocol/sdk/server/stdio.js");
    const { McpTools } = await import("./mcp-tools.ts");
    const { mcpServer } = await import("./mcp-server.ts");
    await using own = new McpTools(await client(), limits);
    const server = mcpServer(own, { name, tools: readOnly ? readOnlyTools : (tools ?? allTools) });
    await server.connect(new StdioServerTransport(host.stdin, host.stdout));
    note(`serving ${readOnly ? "read-only " : ""}tools on standard input and output; Ctrl-C ends`);
    await Promise.race([once(host.stdin, "end"), once(host.stdin, "close"), once(signal, "abort")]);
    await server.close();
  },
});
