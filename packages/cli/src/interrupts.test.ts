import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { listenForInterrupts } from "./interrupts.ts";

test("the first interrupt cancels the command, and the third ends the process", () => {
  const source = new EventEmitter();
  const exits: number[] = [];
  const interrupts = listenForInterrupts(source, (code) => exits.push(code));
  source.emit("SIGINT");
  assert.ok(isSandboxError(interrupts.signal.reason, "canceled"));
  source.emit("SIGINT");
  assert.deepEqual(exits, []);
  source.emit("SIGTERM");
  assert.deepEqual(exits, [143]);
});

test("a handler receives interrupts in place of the signal until it is disposed", () => {
  const source = new EventEmitter();
  const interrupts = listenForInterrupts(source, () => undefined);
  const taken: string[] = [];
  {
    using _ = interrupts.take((name) => taken.push(name));
    source.emit("SIGTERM");
  }
  assert.deepEqual([taken, interrupts.signal.aborted, interrupts.last], [["SIGTERM"], false, "SIGTERM"]);
  source.emit("SIGINT");
  assert.ok(interrupts.signal.aborted);
});
