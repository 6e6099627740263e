import assert from "node:assert/strict";
import { test } from "node:test";
import { partOf } from "./byte-range.ts";

test("a range is one part of the file, the whole file, or unsatisfiable", () => {
  const cases: [header: string | undefined, size: number, expected: ReturnType<typeof partOf>][] = [
    [undefined, 100, undefined],
    ["bytes=0-9", 100, { first: 0, last: 9 }],
    ["bytes=90-", 100, { first: 90, last: 99 }],
    ["bytes=90-1000", 100, { first: 90, last: 99 }],
    ["bytes=-10", 100, { first: 90, last: 99 }],
    ["bytes=-1000", 100, { first: 0, last: 99 }],
    ["BYTES=5-5", 100, { first: 5, last: 5 }],
    ["bytes=100-", 100, "unsatisfiable"],
    ["bytes=-0", 100, "unsatisfiable"],
    ["bytes=0-", 0, "unsatisfiable"],
    ["bytes=9-5", 100, undefined],
    ["bytes=0-1,5-6", 100, undefined],
    ["bytes=-", 100, undefined],
    ["lines=1-2", 100, undefined],
  ];
  for (const [header, size, expected] of cases) assert.deepEqual(partOf(header, size), expected, `${header}`);
});
