import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Entry, type RequestName, traceRequests } from "./trace-requests.ts";

/** The files in ARCHITECTURE.md's table of a request, in order. */
export function documentedFiles(request: RequestName): readonly string[] {
  const text = readFileSync(join(import.meta.dirname, "../../ARCHITECTURE.md"), "utf8");
  const [, section = ""] = new RegExp(`^### ${request}: .*?$(.*?)^##`, "ms").exec(text) ?? [];
  const files = [...section.matchAll(/^\| \d+ +\| `([^`]+)` +\|/gm)].map(([, file = ""]) => file);
  assert.ok(files.length > 0, `ARCHITECTURE.md has no table for ${request}`);
  return files;
}

/** Fails unless the request enters each of the files, in the order of their first entries. */
export function assertEntersInOrder(entries: readonly Entry[], files: readonly string[]): void {
  const entered = entries.map(({ file }) => file);
  assert.deepEqual(
    files.filter((file) => !entered.includes(file)),
    [],
    "ARCHITECTURE.md names files that the request does not enter",
  );
  assert.deepEqual(
    files,
    entered.filter((file) => files.includes(file)),
    "ARCHITECTURE.md has another order than the request; `node tools/trace/print-traces.ts` prints that",
  );
}

/** Background work of the server may enter a file before a request does, which is rare. */
const maxTraces = 3;

/** Traces requests until each enters its files in order, three times at most, and returns the last traces. */
export async function traceUntilInOrder(
  files: Readonly<Partial<Record<RequestName, readonly string[]>>>,
  env: Readonly<Record<string, string>>,
): Promise<ReadonlyMap<RequestName, readonly Entry[]>> {
  const names = Object.keys(files) as RequestName[];
  for (let trace = 1; ; trace += 1) {
    const traces = await traceRequests(names, env);
    try {
      for (const name of names) assertEntersInOrder(traces.get(name) ?? [], files[name] ?? []);
      return traces;
    } catch (error) {
      if (trace === maxTraces || !(error instanceof assert.AssertionError)) return traces;
    }
  }
}
