import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

/**
 * Asserts that a script of this directory kept every promise.
 * @param without patterns of the promises that this run does not make
 */
export async function assertKept(script: string, output: string, without: readonly RegExp[] = []): Promise<void> {
  const text = await readFile(join(import.meta.dirname, script), "utf8");
  const promises = [...text.matchAll(/^ +promise "([^"]+)"/gm)].map(([, name = ""]) => name);
  const expected = promises.filter((name) => !without.some((pattern) => pattern.test(name)));
  assert.ok(expected.length > 20, `${expected.length} promises`);
  const distinct = [...new Set(expected)];
  assert.deepEqual(
    output.match(/^(not )?ok .*$/gm),
    distinct.map((name) => `ok ${name}`),
    output,
  );
}
