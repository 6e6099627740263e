import assert from "node:assert/strict";
import { test } from "node:test";
import { type BuildEvent, debianProgress, throttled } from "./progress.ts";

test("a new step is reported at once, a new percentage only a few times a second", () => {
  let now = 0;
  const events: BuildEvent[] = [];
  const report = throttled(
    (event) => events.push(event),
    () => now,
  );
  report({ step: "a", percent: 1 });
  report({ step: "a", percent: 2 });
  now += 1000;
  report({ step: "a", percent: 3 });
  report({ step: "a", percent: 3 });
  report({ step: "b", percent: 3 });
  assert.deepEqual(
    events.map(({ step, percent }) => `${step}${percent}`),
    ["a1", "a3", "b3"],
  );
});

test("mmdebstrap's lines become steps whose percentage never falls and stays below 100", () => {
  const events: BuildEvent[] = [];
  const line = debianProgress("building", (event) => events.push(event));
  for (const packages of [3, 5]) {
    line(`0 upgraded, ${packages} newly installed, 0 to remove`);
    for (const verb of ["Get:1 http://deb.debian.org/debian trixie/main amd64", "Unpacking", "Setting up"]) {
      for (let count = 0; count < packages; count += 1) line(`${verb} package${count} (1.0)`);
    }
    // The input has one line more than announced.
    line("Unpacking once more");
  }
  const percents = events.map(({ percent }) => percent ?? Number.NaN);
  assert.deepEqual(
    percents,
    percents.toSorted((a, b) => a - b),
  );
  assert.ok(percents.at(-1)! <= 99);
  assert.deepEqual(
    [...new Set(events.map(({ step }) => step))],
    ["building: fetching packages", "building: unpacking packages", "building: setting up packages"],
  );
});
