import assert from "node:assert/strict";
import { test } from "node:test";
import { parseCommand } from "./command.ts";
import { inputLines, tooLong } from "./input-lines.ts";

test("commands are parsed, and null counts as absent", () => {
  assert.deepEqual(parseCommand('{"type":"prompt","text":"hi","more":1}'), { type: "prompt", text: "hi" });
  assert.deepEqual(parseCommand('{"type":"interrupt"}'), { type: "interrupt" });
  const configure = {
    ...{ type: "configure", model: "m", systemPrompt: "s", allowedTools: ["Bash"], permissionMode: "plan" },
    ...{ maxTurns: 3, cwd: "/tmp", mcpServers: { a: { command: "b", args: ["c"], env: { D: "e" } } } },
    ...{ resume: "00000000-0000-4000-8000-000000000000", includePartialMessages: true },
  };
  assert.deepEqual(parseCommand(JSON.stringify({ ...configure, unknown: 1, cwd: null, maxTurns: null })), {
    ...Object.fromEntries(Object.entries(configure).filter(([name]) => name !== "cwd" && name !== "maxTurns")),
  });
  assert.deepEqual(parseCommand(JSON.stringify(configure)), configure);
});

for (const [line, message] of [
  ["{", "the line is not valid JSON"],
  ["[]", "a command must be a JSON object"],
  ["null", "a command must be a JSON object"],
  ["{}", "unknown command without a type: use prompt, interrupt or configure"],
  ['{"type":"stop"}', 'unknown command "stop": use prompt, interrupt or configure'],
  ['{"type":"prompt"}', "a prompt needs a text that is not empty"],
  ['{"type":"prompt","text":""}', "a prompt needs a text that is not empty"],
  ['{"type":"configure","model":1}', "model must be a string"],
  ['{"type":"configure","maxTurns":0}', "maxTurns must be a whole number above 0"],
  ['{"type":"configure","allowedTools":"Bash"}', "allowedTools must be a list of tool names"],
  [
    '{"type":"configure","allowedTools":["Bash(git:*)"]}',
    "allowedTools must be a list of tool names: rules such as Bash(git:*) are not supported",
  ],
  [
    '{"type":"configure","permissionMode":"yolo"}',
    "permissionMode must be one of default, acceptEdits, bypassPermissions, plan",
  ],
  ['{"type":"configure","cwd":"/no/such"}', "cwd is not a directory: /no/such"],
  ['{"type":"configure","resume":"../../etc/passwd"}', "resume must be the id of a conversation"],
  ['{"type":"configure","mcpServers":{"a":{"args":[]}}}', "mcpServers must map names to programs, each with a command"],
] as const) {
  test(`${line} is refused`, () => assert.equal(parseCommand(line), message));
}

async function linesOf(...chunks: readonly string[]): Promise<(string | typeof tooLong)[]> {
  return await Array.fromAsync(inputLines(ReadableStream.from(chunks.map((chunk) => Buffer.from(chunk)))));
}

test("lines are the same wherever the chunks are cut, and the last one needs no newline", async () => {
  assert.deepEqual(await linesOf('{"a', '":1}\n\n  \n{"b"', ":2}\r\n{", '"c":3}'), ['{"a":1}', '{"b":2}', '{"c":3}']);
});

test("a line that is too long is reported once and skipped, and the next one is read", async () => {
  const mebibytes = Array.from({ length: 20 }, () => "x".repeat(2 ** 20));
  assert.deepEqual(await linesOf(...mebibytes, "x\nnext\n"), [tooLong, "next"]);
});
