import assert from "node:assert/strict";
import { test } from "node:test";
import { parseCommand } from "./command.ts";
import { inputLines, tooLong } from "./input-lines.ts";

test("commands are understood, and null is as good as absent", () => {
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
  ["[]", "a command is a JSON object"],
  ["null", "a command is a JSON object"],
  ["{}", "there is no command without a type: prompt, interrupt and configure are known"],
  ['{"type":"stop"}', 'there is no command "stop": prompt, interrupt and configure are known'],
  ['{"type":"prompt"}', "a prompt needs a text"],
  ['{"type":"prompt","text":""}', "a prompt needs a text"],
  ['{"type":"configure","model":1}', "model must be a text"],
  ['{"type":"configure","maxTurns":0}', "maxTurns must be a whole number above 0"],
  ['{"type":"configure","allowedTools":"Bash"}', "allowedTools must be a list of names"],
  [
    '{"type":"configure","allowedTools":["Bash(git:*)"]}',
    "allowedTools must be a list of names: Bash(git:*) is a rule, which is not supported",
  ],
  [
    '{"type":"configure","permissionMode":"yolo"}',
    "permissionMode must be one of default, acceptEdits, bypassPermissions, plan",
  ],
  ['{"type":"configure","cwd":"/no/such"}', "cwd is no directory: /no/such"],
  ['{"type":"configure","resume":"../../etc/passwd"}', "resume must be the id of a conversation"],
  ['{"type":"configure","mcpServers":{"a":{"args":[]}}}', "mcpServers must be programs by name, each with a command"],
] as const) {
  test(`${line} is refused`, () => assert.equal(parseCommand(line), message));
}

async function linesOf(...chunks: readonly string[]): Promise<(string | typeof tooLong)[]> {
  return await Array.fromAsync(inputLines(ReadableStream.from(chunks.map((chunk) => Buffer.from(chunk)))));
}

test("lines are the same however they come, the last one also without an end", async () => {
  assert.deepEqual(await linesOf('{"a', '":1}\n\n  \n{"b"', ":2}\r\n{", '"c":3}'), ['{"a":1}', '{"b":2}', '{"c":3}']);
});

test("a line that is too long is told once, and the next one is heard", async () => {
  const mebibytes = Array.from({ length: 20 }, () => "x".repeat(2 ** 20));
  assert.deepEqual(await linesOf(...mebibytes, "x\nnext\n"), [tooLong, "next"]);
});
