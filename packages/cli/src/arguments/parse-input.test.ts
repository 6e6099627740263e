import assert from "node:assert/strict";
import { test } from "node:test";
import { defineCommand } from "../command.ts";
import { command, flag, one, optional, some, text } from "./inputs.ts";
import { parseInput } from "./parse-input.ts";

const run = async (): Promise<void> => undefined;
const examples = [] as const;
const options = { image: text("NAME", "", "i"), noNetwork: flag("", "n") };
const exec = defineCommand({
  summary: "",
  arguments: { id: one("ID"), command: command("CMD") },
  options,
  examples,
  run,
});
const copy = defineCommand({ summary: "", arguments: { sources: some("S"), target: one("T") }, examples, run });
const build = defineCommand({ summary: "", arguments: { name: optional("NAME") }, examples, run });

const cases = [
  { argv: ["id", "--", "ls", "-la"], command: ["ls", "-la"] },
  { argv: ["id", "ls", "-la"], command: ["ls", "-la"] },
  { argv: ["id", "ls", "--image", "x", "--help", "-n"], command: ["ls", "--image", "x", "--help", "-n"] },
  { argv: ["id", "--", "--image"], command: ["--image"] },
  { argv: ["--", "id", "ls", "--", "x"], command: ["ls", "--", "x"] },
  { argv: ["id", "--", "sh", "-c", "a; b", ""], command: ["sh", "-c", "a; b", ""] },
  { argv: ["--image", "y", "id", "-n", "ls", "-n"], command: ["ls", "-n"], image: "y", noNetwork: true },
  { argv: ["-iy", "-i", "z", "id", "ls"], command: ["ls"], image: "z" },
  { argv: ["--image=-", "id", "ls"], command: ["ls"], image: "-" },
];

for (const { argv, command, image, noNetwork = false } of cases) {
  test(`a command argument keeps its own options: ${argv.join(" ")}`, () => {
    assert.deepEqual(parseInput(exec, argv, []).input, { id: "id", command, image, noNetwork });
  });
}

test("with several sources, the last word is the target", () => {
  assert.deepEqual(parseInput(copy, ["a", "b", "c"], []).input, { sources: ["a", "b"], target: "c" });
  assert.throws(() => parseInput(copy, ["a"], []), /missing S/);
});

test("an optional argument may be absent", () => {
  assert.deepEqual(parseInput(build, [], []).input, { name: undefined });
  assert.deepEqual(parseInput(build, ["x"], []).input, { name: "x" });
});

test("with --help, missing arguments are not a mistake", () => {
  assert.equal(parseInput(exec, ["--help"], []).globals.help, true);
  assert.equal(parseInput(exec, ["-h"], []).globals.help, true);
});
