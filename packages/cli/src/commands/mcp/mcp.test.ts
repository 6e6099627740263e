import assert from "node:assert/strict";
import { test } from "node:test";
import { Client as McpClient } from "@modelcontextprotocol/sdk/client/index.js";
import { InMemoryTransport } from "@modelcontextprotocol/sdk/inMemory.js";
import type { Client, SandboxInfo } from "@opensandbox/sdk";
import type { PartialClient } from "../../testing/test-host.ts";
import { mcpServer } from "./mcp-server.ts";
import { type McpLimits, McpTools } from "./mcp-tools.ts";

const limits: McpLimits = {
  ...{
    maxSandboxes: 2,
    maxMemoryMib: 2048,
    maxSeconds: 60,
    maxOutputBytes: 40,
    sandboxes: ["sb-existing"],
    keep: false,
  },
};

/** The protocol's own client, connected to tools over a server that is played by `played`. */
async function connected(played: PartialClient, tools?: readonly string[]) {
  const own = new McpTools(played as Client, limits);
  const server = mcpServer(own, { name: "opensandbox", tools: tools ?? Object.keys(own.all) });
  const [ours, theirs] = InMemoryTransport.createLinkedPair();
  const client = new McpClient({ name: "test", version: "1" });
  await Promise.all([server.connect(theirs), client.connect(ours)]);
  const call = async (name: string, input: Record<string, unknown>): Promise<{ text: string; isError: boolean }> => {
    const { content, isError = false } = await client.callTool({ name, arguments: input });
    return { text: (content as { text: string }[])[0]?.text ?? "", isError: isError === true };
  };
  return { own, client, call };
}

test("an agent creates, uses, checkpoints and forks sandboxes, within the limits that the caller has set", async () => {
  const asked: unknown[] = [];
  let count = 0;
  const made = (): SandboxInfo => ({ id: `sb-${++count}` }) as SandboxInfo;
  const { own, call } = await connected({
    sandboxes: {
      async create(request) {
        asked.push(request);
        return made();
      },
      async kill(id) {
        asked.push(`kill ${id}`);
      },
    },
    exec: {
      async run(id, request) {
        asked.push([id, request]);
        return { exitCode: 3, stdout: "x".repeat(100), stderr: "" };
      },
    },
    files: {
      async write(id, path, content) {
        asked.push([id, path, content]);
      },
      read: async () => ({ content: new Blob(["content"]).stream() as never }),
    },
    checkpoints: {
      create: async () => ({ id: "cp-1" }) as never,
      list: async () => [{ id: "cp-1" }] as never,
      fork: async () => made(),
    },
  });
  assert.equal((await call("create_sandbox", { memoryMB: 1024, networkAllow: ["a.example"] })).text, "sb-1");
  assert.deepEqual(asked, [{ memoryMib: 1024, egress: { allow: ["a.example"] }, ephemeral: true }]);
  assert.match((await call("create_sandbox", { memoryMB: 4096 })).text, /memoryMB must be at most 2048/);
  const ran = JSON.parse((await call("run_command", { sandbox: "sb-1", command: "true", timeoutSeconds: 999 })).text);
  assert.deepEqual(asked.at(-1), ["sb-1", { cmd: "sh", args: ["-c", "true"], timeout: 60 }]);
  assert.equal(ran.exitCode, 3);
  assert.match(ran.stdout, /^x{20}\n\[60 bytes left out\]\nx{20}$/);
  assert.equal((await call("read_file", { sandbox: "sb-existing", path: "a" })).text, "content");
  assert.equal((await call("create_checkpoint", { sandbox: "sb-1", name: "one" })).text, "cp-1");
  assert.equal((await call("fork_checkpoint", { sandbox: "sb-1", checkpoint: "cp-1" })).text, "sb-2");
  const third = await call("create_sandbox", {});
  assert.ok(third.isError);
  assert.match(third.text, /^quota_exceeded: at most 2 sandboxes/);
  const foreign = await call("fork_checkpoint", { sandbox: "sb-1", checkpoint: "cp-2" });
  assert.match(foreign.text, /^not_found: sb-1 has no checkpoint cp-2/);
  assert.equal((await call("kill_sandbox", { sandbox: "sb-2" })).text, "deleted sb-2");
  await own[Symbol.asyncDispose]();
  assert.equal(asked.at(-1), "kill sb-1");
});

test("an agent uses no sandbox but its own and those that were named, and deletes only its own", async () => {
  const { call } = await connected({ sandboxes: {}, exec: {}, files: {}, previews: {}, checkpoints: {} });
  for (const [name, input] of [
    ["run_command", { command: "true" }],
    ["read_file", { path: "a" }],
    ["write_file", { path: "a", content: "" }],
    ["list_files", { path: "." }],
    ["preview_url", { port: 80 }],
    ["create_checkpoint", { name: "one" }],
    ["kill_sandbox", {}],
  ] as const) {
    const { text, isError } = await call(name, { sandbox: "sb-other", ...input });
    assert.ok(isError);
    assert.match(text, /^not_found: sb-other is not one of the sandboxes/, name);
  }
  assert.match((await call("kill_sandbox", { sandbox: "sb-existing" })).text, /^not_found/);
});

test("an agent is shown the tools that were chosen, and which of them change nothing", async () => {
  const { client, call } = await connected({}, ["read_file", "run_command"]);
  const { tools } = await client.listTools();
  assert.deepEqual(
    tools.map(({ name, annotations }) => [name, annotations?.readOnlyHint]),
    [
      ["run_command", false],
      ["read_file", true],
    ],
  );
  assert.match((await call("create_sandbox", {})).text, /not found/i);
  assert.match((await call("run_command", { sandbox: 5 })).text, /sandbox/);
});
