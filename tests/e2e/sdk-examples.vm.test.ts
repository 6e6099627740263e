// The examples of the SDK's README and of the guides, against real machines.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { after, before, suite, test } from "node:test";
import { promisify } from "node:util";
import { programsOfGuides, Reader } from "../documentation/guides.ts";
import { startWorld, type World } from "./world.ts";

const examples = resolve(import.meta.dirname, "../../packages/sdk/examples");

const expected: Readonly<Record<string, readonly string[]>> = {
  "agent.ts": ["ANTHROPIC_API_KEY is not set in the environment of the sandbox"],
  "code.ts": ["42 adding undefined"],
  "errors.ts": ["not_found", "canceled"],
  "files.ts": ["bread, milk", "today.txt 12", "false true"],
  "first-command.ts": ["42 0"],
  "hibernate-and-fork.ts": ["kept", "kept", "kept"],
  "sessions.ts": ["begun, heard a word 5"],
  "streamed-output.ts": ["stdout line 1", "stdout line 2", "stdout line 3", "exit code 4"],
  "terminal.ts": ["true 3"],
  "web-streams.ts": ["THROUGH A WEB STREAM"],
};

suite("examples of the SDK", () => {
  let world: World;

  before(async () => {
    world = await startWorld();
  });
  after(() => world[Symbol.asyncDispose]());

  test("every example in the folder has an expected output here", () => {
    assert.deepEqual(readdirSync(examples).toSorted(), Object.keys(expected));
  });

  for (const [name, lines] of Object.entries(expected)) {
    test(name, async () => {
      const { stdout } = await promisify(execFile)(process.execPath, [join(examples, name)], {
        env: { ...process.env, OPENSANDBOX_API_URL: world.url, OPENSANDBOX_API_KEY: world.apiKey },
      });
      assert.deepEqual(stdout.trim().split("\n"), lines);
    });
  }

  test("the programs of the guides that capture a machine's memory", async () => {
    await using reader = await Reader.of(world);
    const programs = programsOfGuides().filter(({ captures }) => captures);
    assert.deepEqual(new Set(programs.map(({ language }) => language)), new Set(["ts"]));
    const output = await reader.run(
      "ts",
      programs.map(({ code }) => code),
    );
    for (const text of ["remembered", "'prepared', 'first'", "'prepared', 'second'", "good"]) {
      assert.ok(output.includes(text), `${text} is not in ${output}`);
    }
  });
});
