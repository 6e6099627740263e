import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Command, Group } from "./command.ts";
import { runForTest } from "./testing/test-host.ts";

const sandbox = {
  id: "sb-1a2b3c4d",
  status: "running" as const,
  alias: "",
  image: "default",
  vcpus: 1,
  memoryMib: 1024,
  diskMib: 20_480,
  idleTimeoutSeconds: 0,
  metadata: {},
  createdAt: "2026-01-01T00:00:00.000Z",
};

test("without a command, the program shows its help", async (t) => {
  const { code, stdout, stderr } = await runForTest([]);
  assert.deepEqual([code, stderr], [0, ""]);
  t.assert.snapshot(stdout.split("\n"));
});

for (const line of ["run --help", "exec --help", "image --help", "config set --help"]) {
  test(`osb ${line}`, async (t) => {
    const { code, stdout, stderr } = await runForTest(line.split(" "));
    assert.deepEqual([code, stderr], [0, ""]);
    t.assert.snapshot(stdout.split("\n"));
  });
}

test("help lists every command, and the help of each has an example", async () => {
  const { commands } = await import("./commands/commands.ts");
  const { stdout } = await runForTest(["help"]);
  for (const [word, found] of Object.entries(commands)) {
    assert.match(stdout, new RegExp(`^  ${word} +\\w`, "m"));
    for (const path of pathsOf(word, found)) {
      const { code, stdout } = await runForTest([...path, "--help"]);
      assert.equal(code, 0);
      assert.match(stdout, /\nExamples:\n  # /);
      assert.ok(stdout.split("\n").every((line) => line.length <= 100));
      const [, examples = ""] = stdout.split("\nExamples:\n");
      for (const [, line = ""] of examples.matchAll(/^ {2}([^#].*)$/gm)) {
        assert.match(line, /\bosb \w/);
        assert.ok(!Object.hasOwn(commands, line.split(" ")[0] ?? ""), `the program's name is missing: ${line}`);
      }
    }
  }
});

/** The words of a command, or of every command in a group. */
function pathsOf(word: string, found: Command | Group): string[][] {
  if (found.kind === "command") return [[word]];
  const inside = Object.entries(found.commands).flatMap(([verb, command]) => pathsOf(verb, command));
  return inside.map((path) => [word, ...path]);
}

const wrong = [
  { line: "rnu", says: 'unknown command "rnu" (did you mean run?)', usage: "osb COMMAND" },
  { line: "image bild", says: 'unknown command "image bild" (did you mean build?)', usage: "osb image" },
  { line: "help rnu", says: 'unknown command "rnu" (did you mean run?)', usage: "osb COMMAND" },
  { line: "help get it", says: 'unexpected argument "it"', usage: "osb get" },
  { line: "--jsn ls", says: "unknown option --jsn (did you mean --json?)", usage: "osb COMMAND" },
  { line: "ls --al", says: "unknown option --al", usage: "osb ls" },
  { line: "run --imge minimal -- true", says: "unknown option --imge (did you mean --image?)", usage: "osb run" },
  { line: "run", says: "missing CMD", usage: "osb run" },
  { line: "run --memory", says: "--memory needs a value: --memory MB", usage: "osb run" },
  {
    line: "run --image --keep -- true",
    says: "--image needs a value: --image NAME, or --image=--keep",
    usage: "osb run",
  },
  { line: "run --memory much -- true", says: '--memory takes a whole number, not "much"', usage: "osb run" },
  { line: "run --keep=yes -- true", says: "--keep takes no value", usage: "osb run" },
  { line: "run -e NAME -- true", says: '--env takes NAME=VALUE, not "NAME"', usage: "osb run" },
  { line: "exec sb-1a2b3c4d", says: "missing CMD", usage: "osb exec" },
  { line: "get", says: "missing SANDBOX", usage: "osb get" },
  { line: "get a b", says: 'unexpected argument "b"', usage: "osb get" },
  { line: "timeout sb-1a2b3c4d soon", says: 'SECONDS takes a whole number, not "soon"', usage: "osb timeout" },
  { line: "cp a b", says: "either the sources or the target must be in a sandbox", usage: "osb cp" },
  { line: "cp sb-1a2b3c4d:a sb-1a2b3c4d:b", says: "either the sources or the target", usage: "osb cp" },
  { line: "cp - a sb-1a2b3c4d:b", says: "- stands for a single file", usage: "osb cp" },
  { line: "cp - sb-1a2b3c4d:b/", says: "- has no name", usage: "osb cp" },
  { line: "config set color red", says: 'unknown setting "color"', usage: "osb config set" },
  { line: "config set api-url example.com", says: "api-url must start with http", usage: "osb config set" },
  { line: "up --port 70000", says: "--port must be from 0 to 65535", usage: "osb up" },
];

for (const { line, says, usage } of wrong) {
  test(`osb ${line}: prints the mistake and the usage, exits with 2`, async () => {
    const { code, stdout, stderr } = await runForTest(line.split(" "));
    assert.deepEqual([code, stdout], [2, ""]);
    assert.ok(stderr.startsWith(`osb: ${says}`), stderr);
    assert.ok(stderr.includes(`\nusage: ${usage} `), stderr);
    assert.match(stderr, /\nRun 'osb[^\n]* --help' for more\.\n$/);
  });
}

test("with --json, an error is JSON on standard error", async () => {
  const { code, stdout, stderr } = await runForTest(["get", "--json"]);
  assert.deepEqual([code, stdout], [2, ""]);
  assert.deepEqual(JSON.parse(stderr), {
    error: "missing SANDBOX",
    code: "invalid_argument",
    usage: "osb get [options] SANDBOX",
  });
});

test("an error of the server is one line, and the exit code is 1", async () => {
  const get = async (id: string) => {
    throw new SandboxError("not_found", "sandbox not found", { resource: "sandbox", id });
  };
  const options = { client: { sandboxes: { get } } };
  const plain = await runForTest(["get", "sb-1a2b3c4d"], options);
  assert.deepEqual([plain.code, plain.stdout, plain.stderr], [1, "", "osb: sandbox not found\n"]);
  const json = await runForTest(["--json", "get", "sb-1a2b3c4d"], options);
  assert.deepEqual([json.code, JSON.parse(json.stderr)], [1, { error: "sandbox not found", code: "not_found" }]);
});

test("an error of the connection says where the address or the key comes from", async () => {
  const failing = (error: SandboxError) => ({
    client: {
      sandboxes: {
        list: async () => {
          throw error;
        },
      },
    },
  });
  const wrongKey = failing(new SandboxError("unauthenticated", "invalid API key"));
  const first = await runForTest(["ls", "--api-key", "wrong"], wrongKey);
  assert.deepEqual(
    [first.code, first.stderr],
    [1, "osb: invalid API key\nThe key comes from --api-key. 'osb up' prints the key of the server that it starts.\n"],
  );
  const noKey = await runForTest(["ls"], {
    ...wrongKey,
    env: { OPENSANDBOX_API_URL: "http://a.test", XDG_CONFIG_HOME: "/nonexistent" },
  });
  assert.match(noKey.stderr, /\nhttp:\/\/a\.test requires a key: set OPENSANDBOX_API_KEY, or /);
  const cause = new TypeError("fetch failed");
  const away = failing(new SandboxError("unavailable", "cannot reach http://server.test", { cause }));
  assert.match(
    (await runForTest(["ls"], away)).stderr,
    /^osb: cannot reach .*\nThe address comes from OPENSANDBOX_API_URL\. Check that a server runs there\.\n$/,
  );
  const other = failing(new SandboxError("unavailable", "the machine has ended"));
  assert.equal((await runForTest(["ls"], other)).stderr, "osb: the machine has ended\n");
});

test("global options may stand before and after the command", async () => {
  const options = { client: { sandboxes: { list: async () => [] } } };
  for (const argv of [
    ["--json", "--api-url", "http://other.test", "--api-key=k", "ls"],
    ["ls", "--api-url=http://other.test", "--api-key", "k", "--json"],
  ]) {
    const { code, stdout, connected } = await runForTest(argv, options);
    assert.deepEqual([code, stdout, connected], [0, "[]\n", [{ url: "http://other.test", apiKey: "k" }]]);
  }
});

test("ls is a table for people and an array for programs", async () => {
  const options = { client: { sandboxes: { list: async () => [sandbox] } } };
  assert.match(
    (await runForTest(["ls"], options)).stdout,
    /^SANDBOX +ALIAS +STATUS .*\nsb-1a2b3c4d +- +running +default /,
  );
  assert.deepEqual(JSON.parse((await runForTest(["ls", "--json"], options)).stdout), [sandbox]);
});

test("create prints only the id and sends every option", async () => {
  const asked: unknown[] = [];
  const create = async (request: unknown) => {
    asked.push(request);
    return sandbox;
  };
  const line =
    "create --image minimal --memory 512 --cpus 2 --disk 30000 -e A=1 --env B=x=y --metadata m=n --timeout 60";
  const { stdout, code } = await runForTest([...line.split(" "), "--ephemeral", "--alias", "my name", "--no-network"], {
    client: { sandboxes: { create } },
  });
  assert.deepEqual([stdout, code], ["sb-1a2b3c4d\n", 0]);
  assert.deepEqual(asked, [
    {
      image: "minimal",
      memoryMib: 512,
      vcpus: 2,
      diskMib: 30_000,
      envs: { A: "1", B: "x=y" },
      metadata: { m: "n" },
      idleTimeoutSeconds: 60,
      ephemeral: true,
      alias: "my name",
      networkEnabled: false,
    },
  ]);
});

test("kill kills every sandbox that it can, and fails if one remains", async () => {
  const kill = async (id: string) => {
    if (id === "sb-00000002") throw new SandboxError("unavailable", "no answer");
  };
  const { code, stdout, stderr } = await runForTest(["kill", "sb-00000001", "sb-00000002", "sb-00000003"], {
    client: { sandboxes: { kill } },
  });
  assert.deepEqual(
    [code, stdout, stderr],
    [1, "killed sb-00000001\nkilled sb-00000003\n", "osb: sb-00000002: no answer\n"],
  );
});
