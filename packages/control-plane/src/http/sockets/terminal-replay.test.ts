import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { TerminalReplay } from "./terminal-replay.ts";

const esc = "\u001b";
const questions = [
  `${esc}[c`,
  `${esc}[0c`,
  `${esc}[>c`,
  `${esc}[=0c`,
  `${esc}Z`,
  `${esc}[5n`,
  `${esc}[6n`,
  `${esc}[?6n`,
  `${esc}[?2026$p`,
  `${esc}[4$p`,
  `${esc}[>0q`,
  `${esc}[?u`,
  `${esc}[14t`,
  `${esc}[18t`,
  `${esc}]10;?\u0007`,
  `${esc}]11;?${esc}\\`,
  `${esc}]4;1;?\u0007`,
  `${esc}]52;c;?\u0007`,
  `${esc}P$qm${esc}\\`,
  `${esc}P+q544e${esc}\\`,
];
const statements = [
  "plain text ünï 中文\r\n",
  `${esc}[31mred${esc}[0m`,
  `${esc}[2J${esc}[1;1H`,
  `${esc}[?1049h`,
  `${esc}]0;a title?\u0007`.replace("?", "!"),
  `${esc}]8;;https://example.com${esc}\\link${esc}]8;;${esc}\\`,
  `${esc}(B${esc}=`,
  `${esc}[22;0;0t`,
  `${esc}7${esc}8`,
  "\u0000\u007f\u00ff".repeat(3),
];

function replayed(text: string, cuts: readonly number[]): string {
  const bytes = Buffer.from(text);
  const filter = new TerminalReplay();
  const parts: Uint8Array[] = [];
  let at = 0;
  for (const cut of [...cuts.map((part) => Math.floor(part * bytes.length)).toSorted((a, b) => a - b), bytes.length]) {
    parts.push(filter.pass(bytes.subarray(at, cut)));
    at = cut;
  }
  return Buffer.concat([...parts, filter.end()]).toString();
}

test("every query is removed, and nothing else", () => {
  for (const question of questions) assert.equal(replayed(`a${question}b`, []), "ab", JSON.stringify(question));
  for (const statement of statements) assert.equal(replayed(statement, []), statement, JSON.stringify(statement));
});

test("queries are removed wherever the replay is cut", () => {
  const pieces = fc.array(fc.constantFrom(...questions, ...statements), { maxLength: 20 });
  const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 20 });
  fc.assert(
    fc.property(pieces, cuts, (texts, at) => {
      const expected = texts.filter((text) => statements.includes(text)).join("");
      assert.equal(replayed(texts.join(""), at), expected);
    }),
  );
});

test("all other bytes pass unchanged", () => {
  const noEscape = fc.uint8Array({ maxLength: 300 }).map((bytes) => bytes.map((byte) => (byte === 0x1b ? 0x20 : byte)));
  fc.assert(
    fc.property(noEscape, (bytes) => {
      const filter = new TerminalReplay();
      assert.deepEqual(Buffer.concat([filter.pass(bytes), filter.end()]), Buffer.from(bytes));
    }),
  );
});

test("an unfinished sequence is not held back forever", () => {
  const filter = new TerminalReplay();
  const text = `${esc}]0;${"x".repeat(10_000)}`;
  assert.equal(Buffer.from(filter.pass(Buffer.from(text))).toString(), text);
});
