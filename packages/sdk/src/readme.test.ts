import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

const here = join(import.meta.dirname, "..");

test("the README shows every example file, unchanged", () => {
  const readme = readFileSync(join(here, "README.md"), "utf8");
  const shown = [...readme.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code = ""]) => code);
  const examples = readdirSync(join(here, "examples")).map((name) =>
    readFileSync(join(here, "examples", name), "utf8"),
  );
  assert.deepEqual(shown.toSorted(), examples.toSorted());
});
