// An MCP server with one tool. It echoes its input; the input "end" makes the server exit.
import { createInterface } from "node:readline";

const tool = { name: "echo", description: "Echoes its input", inputSchema: { type: "object" } };

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line) as {
    id?: number;
    method: string;
    params?: { arguments?: { text: string }; protocolVersion?: string };
  };
  if (id === undefined) continue;
  const text = params?.arguments?.text ?? "";
  if (text === "end") process.exit(0);
  const results: Record<string, unknown> = {
    initialize: { protocolVersion: params?.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: "echo" } },
    "tools/list": { tools: [tool] },
    "tools/call": { content: [{ type: "text", text: `${process.env["PREFIX"]} ${text}` }], isError: text === "bad" },
  };
  process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", id, result: results[method] })}\n`);
}
