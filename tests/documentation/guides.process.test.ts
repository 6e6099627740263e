import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { after, before, suite, test } from "node:test";
import { type SpawnedServer, spawnServer } from "../e2e/spawn-server.ts";
import { type Program, programsOfGuides, Reader } from "./guides.ts";

// The programs of the guides against a server with the fake hypervisor. Those that capture memory run in
// tests/e2e/sdk-examples.vm.test.ts.
suite("the guides", () => {
  const stack = new AsyncDisposableStack();
  let world: SpawnedServer;
  let reader: Reader;

  before(async () => {
    world = stack.use(await spawnServer({ env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" } }));
    reader = stack.use(await Reader.of(world));
  });
  after(() => stack.disposeAsync());

  const programs = programsOfGuides().filter(({ captures }) => !captures);
  const codeOf = (language: Program["language"], module?: string): readonly string[] =>
    programs
      .filter((program) => program.language === language && /^from (\w+) import/m.exec(program.code)?.[1] === module)
      .map(({ code }) => code);
  const expected = {
    ts: ['"exitCode":3', "hello from agent", "step 3\nexit code 0", "canceled", "42 0", "tick", "false"],
    sh: ["Linux", "kept in the machine", "6 * 7 is 42"],
    python: ['"stdout": "42\\n"', '"exitCode": 2'],
  } as const;

  for (const language of ["ts", "sh"] as const) {
    test(`every ${language} program runs and prints what its guide says`, async () => {
      const output = await reader.run(language, codeOf(language));
      for (const text of expected[language]) assert.ok(output.includes(text), `${text} is not in ${output}`);
    });
  }

  test("the Python program of the standard library runs", { skip: lacks("json") }, async () => {
    const output = await reader.run("python", codeOf("python"));
    for (const text of expected.python) assert.ok(output.includes(text), `${text} is not in ${output}`);
  });

  test("the Python program of E2B's client runs", { skip: lacks("e2b") }, async () => {
    assert.match(await reader.run("python", codeOf("python", "e2b")), /kept in the sandbox/);
  });

  test("no program leaves a sandbox", async () => {
    const reply = await fetch(`${world.url}/api/sandboxes`, { headers: { "X-API-Key": world.apiKey } });
    assert.deepEqual(await reply.json(), []);
  });
});

function lacks(module: string): string | false {
  const { status } = spawnSync("python3", ["-c", `import ${module}`], { timeout: 60_000 });
  return status === 0 ? false : `there is no python3 with the module ${module}`;
}
