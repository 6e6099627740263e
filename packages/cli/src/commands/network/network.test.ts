import assert from "node:assert/strict";
import { test } from "node:test";
import type { Network } from "@opensandbox/sdk";
import { type PartialClient, runForTest } from "../../testing/test-host.ts";

const id = "sb-1a2b3c4d";
const made = { id, hostPort: 40_000 };

async function setNetwork(...options: string[]): Promise<{ readonly asked: unknown; readonly shown: string }> {
  let asked: unknown;
  const set = async (_id: string, request: unknown): Promise<Network> => {
    asked = request;
    return { enabled: true, egress: { allow: ["a.example"], deny: [] }, notEnforced: ["nothing holds here"] };
  };
  const { stdout, stderr } = await runForTest(["network", "set", id, ...options], { client: { network: { set } } });
  return { asked, shown: stdout + stderr };
}

test("network set sends only the changes and shows the new policy", async () => {
  const { asked, shown } = await setNetwork("--allow", "a.example, *.b.example,203.0.113.0/24");
  assert.deepEqual(asked, { egress: { allow: ["a.example", "*.b.example", "203.0.113.0/24"] } });
  assert.equal(shown, "on\nallow: a.example\ndeny: nothing\non this host: nothing holds here\n");
  assert.deepEqual((await setNetwork("--allow", "")).asked, { egress: { allow: [] } });
  assert.deepEqual((await setNetwork("--off")).asked, { enabled: false });
  assert.deepEqual((await setNetwork("--on", "--open")).asked, { enabled: true, egress: {} });
});

test("network show lists the headers that requests get", async () => {
  const headers = { "api.example.com": { "X-Team": "a", "x-b": "" }, "*.example.org": { "X-Team": "b" } };
  const get = async (): Promise<Network> => ({ enabled: true, egress: { headers }, notEnforced: [] });
  const { stdout } = await runForTest(["network", "show", id], { client: { network: { get } } });
  assert.equal(
    stdout,
    "on\nheader for api.example.com: X-Team: a\nheader for api.example.com: x-b: \nheader for *.example.org: X-Team: b\n",
  );
});

for (const [options, says] of [
  [["--on", "--off"], "--on and --off exclude each other"],
  [["--open", "--deny", "a.example"], "--open excludes --allow and --deny"],
  [[], "nothing to change"],
] as const) {
  test(`network set ${options.join(" ")} is refused as a mistake`, async () => {
    const { asked, shown } = await setNetwork(...options);
    assert.equal(asked, undefined);
    assert.match(shown, new RegExp(says));
  });
}

test("create and fork accept network rules and a port", async () => {
  const asked: unknown[] = [];
  const sandboxes = {
    create: async (request: unknown) => {
      asked.push(request);
      return await Promise.resolve(made);
    },
  };
  const checkpoints = { fork: async (_id: string, request: unknown) => await sandboxes.create(request) };
  const client = { sandboxes, checkpoints } as PartialClient;
  const options = ["--allow", "a.example, b.example", "--deny", "203.0.113.0/24", "--port", "80"];
  for (const words of [["create"], ["fork", "5f0d3e5d-0667-43b1-a989-ffccae31a58c"]]) {
    const { stdout, stderr } = await runForTest([...words, ...options], { client });
    assert.deepEqual(
      [stdout, stderr],
      [`${id}\n`, "osb: port 40000 of the server forwards to port 80 of the sandbox\n"],
    );
  }
  await runForTest(["fork", "--no-network", "--memory", "2048", "5f0d3e5d"], { client });
  const egress = { allow: ["a.example", "b.example"], deny: ["203.0.113.0/24"] };
  const common = { envs: {}, metadata: {} };
  assert.deepEqual(asked, [
    { ...common, egress, port: 80 },
    { ...common, egress, port: 80 },
    { ...common, networkEnabled: false, memoryMib: 2048 },
  ]);
});

test("network log lists refused connections", async () => {
  const at = new Date().toISOString();
  const log = async () => [
    { at, count: 3, protocol: "tcp", address: "10.0.0.1", port: 22, reason: "no" },
    { at, count: 1, protocol: "dns", host: "a.example", reason: "no such name" },
  ];
  const { stdout } = await runForTest(["network", "log", id], { client: { network: { log } } });
  assert.match(stdout, /^LAST .*\n.* 3 +tcp +10\.0\.0\.1:22 +no\n.* 1 +dns +a\.example +no such name\n$/);
});

test("preview create prints the host name", async () => {
  const create = async (_id: string, { port, domain }: { port: number; domain?: string }) => ({
    ...{ port, hostname: `${id}-p${port}.localhost`, createdAt: new Date().toISOString() },
    ...(domain === undefined ? {} : { customHostname: domain }),
  });
  const client = { previews: { create } };
  assert.equal((await runForTest(["preview", "create", id, "80"], { client })).stdout, `${id}-p80.localhost\n`);
  const named = await runForTest(["preview", "create", id, "80", "--domain", "app.example.com"], { client });
  assert.equal(named.stdout, "app.example.com\n");
});
