import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { commands } from "../commands.ts";
import { scriptFor, shells } from "./scripts.ts";
import { candidates, type Kind } from "./words.ts";

const ids = async (kind: Kind): Promise<readonly string[]> =>
  await Promise.resolve(kind === "sandboxes" ? ["sb-11111111", "sb-22222222"] : ["cp-1"]);
const complete = async (...typed: string[]): Promise<readonly string[]> => await candidates(commands, typed, ids);

test("commands and the verbs of a noun are completed", async () => {
  assert.deepEqual(await complete("hib"), ["hibernate"]);
  assert.deepEqual(await complete(""), Object.keys(commands));
  assert.deepEqual(await complete("checkpoint", ""), ["create", "ls", "rm", "publish"]);
  assert.deepEqual(await complete("agent", "in"), ["interrupt"]);
  assert.deepEqual(await complete("agent", "run", "--p"), ["--permission-mode"]);
  assert.deepEqual(await complete("agent", "run", "sb-1"), ["sb-11111111"]);
  assert.deepEqual(await complete("no-such", ""), Object.keys(commands));
});

test("options of a command and global options are completed", async () => {
  assert.deepEqual(await complete("create", "--me"), ["--memory", "--metadata"]);
  assert.deepEqual(await complete("--j"), ["--json"]);
});

test("ids are completed where an argument is an id", async () => {
  assert.deepEqual(await complete("get", "sb-1"), ["sb-11111111"]);
  assert.deepEqual(await complete("kill", "sb-11111111", ""), ["sb-11111111", "sb-22222222"]);
  assert.deepEqual(await complete("restore", "sb-11111111", ""), ["cp-1"]);
  assert.deepEqual(await complete("exec", "--cwd", "/tmp", ""), ["sb-11111111", "sb-22222222"]);
  assert.deepEqual(await complete("logs", "--tail", ""), []);
});

test("words of another program are not completed", async () => {
  assert.deepEqual(await complete("exec", "sb-11111111", "--", "ls", "--a"), []);
});

test("the bash script completes", () => {
  const directory = mkdtempSync(join(tmpdir(), "osb-completion-"));
  try {
    const program = join(directory, "osb");
    writeFileSync(program, '#!/bin/sh\necho "$*" >"${0%/*}/asked"\nprintf "alpha\\nalso\\n"\n');
    chmodSync(program, 0o755);
    const line = `
${scriptFor("bash", "osb")}
COMP_WORDS=(osb checkpoint al); COMP_CWORD=2
_osb ${program} al checkpoint
printf '%s\\n' "\${COMPREPLY[@]}"`;
    assert.equal(execFileSync("bash", ["-c", line], { encoding: "utf8" }), "alpha\nalso\n");
    assert.equal(
      execFileSync("cat", [join(directory, "asked")], { encoding: "utf8" }),
      "completion words -- checkpoint al\n",
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("each script is valid in its shell, if the shell is installed", (t) => {
  for (const shell of shells) {
    const { status, stderr, error } = spawnSync(shell, ["-n"], { input: scriptFor(shell, "osb"), encoding: "utf8" });
    if (error !== undefined) t.diagnostic(`${shell} is not installed`);
    else assert.equal(status, 0, stderr);
  }
});
