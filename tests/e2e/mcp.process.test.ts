import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { eventually, eventOf, within } from "@opensandbox/wire/testing/eventually.ts";
import { spawnServer } from "./spawn-server.ts";

/** Calls a tool, and returns the text of its result. */
function callerOf(client: Client): (name: string, input: Record<string, unknown>) => Promise<string> {
  return async (name, input) => {
    const { content } = await client.callTool({ name, arguments: input });
    return (content as { text: string }[])[0]?.text ?? "";
  };
}

// The protocol's own client, the command line as its server, a real server, and a machine that is a process of this host.
test("an agent creates a sandbox, works in it and leaves nothing behind", async () => {
  await using server = await spawnServer({ env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" } });
  const client = new Client({ name: "test", version: "1" });
  const transport = new StdioClientTransport({
    command: process.execPath,
    args: [
      "--disable-warning=ExperimentalWarning",
      join(import.meta.dirname, "../../packages/cli/src/start.ts"),
      ...["mcp", "--max-sandboxes", "1"],
    ],
    env: { PATH: process.env["PATH"] ?? "", OPENSANDBOX_API_URL: server.url, OPENSANDBOX_API_KEY: server.apiKey },
    stderr: "ignore",
  });
  await within("the connection", client.connect(transport), 60_000);
  const call = callerOf(client);
  const sandbox = await call("create_sandbox", {});
  assert.match(sandbox, /^sb-[0-9a-f]{16}$/);
  await call("write_file", { sandbox, path: "note", content: "kept" });
  assert.deepEqual(JSON.parse(await call("run_command", { sandbox, command: "cat note; echo err >&2; exit 3" })), {
    ...{ exitCode: 3, stdout: "kept", stderr: "err\n" },
  });
  assert.equal(await call("read_file", { sandbox, path: "note" }), "kept");
  assert.match(await call("list_files", { sandbox, path: "." }), /^file\t4\tnote$/m);
  assert.match(await call("create_sandbox", {}), /^quota_exceeded/);
  await client.close();
  const headers = { "x-api-key": server.apiKey };
  await eventually("the sandbox is deleted", async () => {
    const response = await fetch(`${server.url}/api/sandboxes/${sandbox}`, { headers });
    return ((await response.json()) as { readonly status: string }).status === "stopped";
  });
});

test("agents with the token use the tools over HTTP, and nothing is left when the command ends", async () => {
  await using server = await spawnServer({ env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" } });
  const start = join(import.meta.dirname, "../../packages/cli/src/start.ts");
  const command = spawn(
    process.execPath,
    ["--disable-warning=ExperimentalWarning", start, "--json", "mcp", "--http", "0", "--max-sandboxes", "1"],
    {
      env: { PATH: process.env["PATH"], OPENSANDBOX_API_URL: server.url, OPENSANDBOX_API_KEY: server.apiKey },
      stdio: ["ignore", "pipe", "ignore"],
    },
  );
  const ended = eventOf(command, "exit", 120_000);
  ended.catch(() => undefined);
  try {
    const text: string[] = [];
    const lines = createInterface({ input: command.stdout });
    const parsed = (): { url: string; token: string } | undefined => {
      try {
        return JSON.parse(text.join("\n")) as { url: string; token: string };
      } catch {
        return undefined;
      }
    };
    lines.on("line", (line) => text.push(line));
    const { url, token } = await eventually("the address is printed", parsed, { withinMs: 60_000 });
    for (const [method, authorization, status] of [
      ["POST", "", 401],
      ["POST", `Bearer ${token}0`, 401],
      ["GET", `Bearer ${token}`, 405],
    ] as const) {
      const response = await fetch(url, { method, headers: { authorization } });
      assert.equal(response.status, status, `${method} ${authorization}`);
    }
    const client = new Client({ name: "test", version: "1" });
    const requestInit = { headers: { authorization: `Bearer ${token}` } };
    const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit });
    await within("the connection", client.connect(transport), 60_000);
    const call = callerOf(client);
    const sandbox = await call("create_sandbox", {});
    assert.match(sandbox, /^sb-[0-9a-f]{16}$/);
    assert.match(await call("run_command", { sandbox, command: "echo out" }), /"stdout": ?"out\\n"/);
    assert.match(await call("create_sandbox", {}), /^quota_exceeded/);
    await client.close();
    command.kill("SIGTERM");
    await ended;
    const response = await fetch(`${server.url}/api/sandboxes/${sandbox}`, { headers: { "x-api-key": server.apiKey } });
    assert.equal(((await response.json()) as { readonly status: string }).status, "stopped");
  } finally {
    command.kill("SIGKILL");
  }
});
