import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { version } from "@opensandbox/wire/version.ts";
import { type McpTool, type McpTools, resultOf } from "./mcp-tools.ts";

/** A server of the Model Context Protocol with the tools whose names are given. */
export function mcpServer(
  tools: McpTools,
  { name: serverName, tools: names }: { readonly name: string; readonly tools: readonly string[] },
): McpServer {
  const server = new McpServer({ name: serverName, version });
  for (const [name, definition] of Object.entries(tools.all as unknown as Readonly<Record<string, McpTool>>)) {
    if (!names.includes(name)) continue;
    const { title, description, input, isReadOnly } = definition;
    const config = { title, description, inputSchema: input, annotations: { readOnlyHint: isReadOnly } };
    server.registerTool(name, config, async (values, { signal }) => {
      return await resultOf(async () => await definition.run(values, signal));
    });
  }
  return server;
}
