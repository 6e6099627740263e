import assert from "node:assert/strict";
import { test } from "node:test";
import { startProgress } from "./progress.ts";
import { sink } from "#testing/test-host.ts";

test("an operation of less than a second shows nothing", (t) => {
  t.mock.timers.enable({ apis: ["setInterval", "Date"] });
  const { stream, text } = sink();
  {
    using progress = startProgress(stream, Date.now);
    progress.report("starting");
    t.mock.timers.tick(900);
  }
  t.mock.timers.tick(10_000);
  assert.equal(text(), "");
});

test("outside of a terminal, progress is a line from time to time", (t) => {
  t.mock.timers.enable({ apis: ["setInterval", "Date"] });
  const { stream, text } = sink();
  using progress = startProgress(stream, Date.now);
  progress.report("building");
  for (let percent = 0; percent < 30; percent++) {
    t.mock.timers.tick(400);
    progress.report(`building (${percent} %)`);
  }
  progress.report("starting\nthe machine");
  for (let second = 0; second < 60; second++) t.mock.timers.tick(1000);
  assert.deepEqual(text().trimEnd().split("\n"), [
    "osb: building (1 %) (1 s)",
    "osb: building (15 %) (6 s)",
    "osb: building (28 %) (12 s)",
    "osb: starting the machine (17 s)",
    "osb: starting the machine (47 s)",
  ]);
});

test("on a terminal, one line changes, fits the width, and is removed at the end", (t) => {
  t.mock.timers.enable({ apis: ["setInterval", "Date"] });
  const { stream, text } = sink();
  const terminal = Object.assign(stream, { isTTY: true, columns: 20 });
  {
    using progress = startProgress(terminal, Date.now);
    progress.report("building an image");
    t.mock.timers.tick(1000);
    t.mock.timers.tick(1000);
  }
  assert.equal(text(), "\r\u001B[2Kbuilding an … (1 s)\r\u001B[2Kbuilding an … (2 s)\r\u001B[2K");
});
