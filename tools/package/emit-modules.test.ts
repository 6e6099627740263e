import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { globSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { emitModules } from "./emit-modules.ts";

const manifest = JSON.stringify({ exports: { ".": "./src/index.ts", "./*": "./src/*" } });
const entry = "packages/a/src/main.ts";

async function emitted(t: TestContext, files: Readonly<Record<string, string>>, leftOut = /^never/) {
  const root = await mkdtemp(join(tmpdir(), "osb-emit-"));
  t.after(() => rm(root, { recursive: true }));
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), text);
  }
  const target = join(root, "target");
  const further = await emitModules({ root, entry, leftOut, target });
  const paths = globSync("**/*.js", { cwd: target }).toSorted();
  const read = async (path: string): Promise<[string, string]> => [path, await readFile(join(target, path), "utf8")];
  return { further: [...further], modules: Object.fromEntries(await Promise.all(paths.map(read))) };
}

test("types are removed, and imports between packages become relative paths of JavaScript", async (t) => {
  const { further, modules } = await emitted(t, {
    [entry]: `import { z } from "zod";
import { join } from "node:path";
import type { T } from "./types.ts";
import { x } from "#deep/x.ts";
export { type U } from "./u.ts";
const b = async (): Promise<unknown> => await import("@opensandbox/b");
const worker = import.meta.resolve("./worker.ts");
export const all: T = [z, join, x, b, worker];
`,
    "packages/a/src/types.ts": "export type T = unknown[];\n",
    "packages/a/src/u.ts": "export type U = string;\n",
    "packages/a/src/deep/x.ts": 'export { y as x } from "@opensandbox/b/y.ts";\n',
    "packages/a/src/worker.ts": "export {};\n",
    "packages/b/package.json": manifest,
    "packages/b/src/index.ts": 'export * from "@scope/other/part.js";\n',
    "packages/b/src/y.ts": "export const y = 1 as number;\n",
  });
  assert.deepEqual(further.toSorted(), ["@scope/other", "zod"]);
  assert.deepEqual(Object.keys(modules), [
    "packages/a/src/deep/x.js",
    "packages/a/src/main.js",
    "packages/a/src/u.js",
    "packages/a/src/worker.js",
    "packages/b/src/index.js",
    "packages/b/src/y.js",
  ]);
  const main = modules["packages/a/src/main.js"] ?? "";
  assert.match(main, /import \{ x \} from "\.\/deep\/x\.js";/);
  assert.match(main, /await import\("\.\.\/\.\.\/b\/src\/index\.js"\)/);
  assert.match(main, /import\.meta\.resolve\("\.\/worker\.js"\)/);
  assert.doesNotMatch(main, /types|Promise<|\.ts"/);
  assert.equal(modules["packages/a/src/deep/x.js"], 'export { y as x } from "../../../b/src/y.js";\n');
});

test("an import of a missing file fails the build", async (t) => {
  await assert.rejects(emitted(t, { [entry]: 'import "./gone.ts";' }), /main\.ts: \.\/gone\.ts does not exist/);
});

test("an import that only running code can name fails the build", async (t) => {
  await assert.rejects(emitted(t, { [entry]: "await import(name);" }), /cannot follow import\(name\)/);
});

test("a module that is left out is not written, and neither are its imports", async (t) => {
  const files = {
    [entry]: 'await import("../../../bench/run.ts");',
    "bench/run.ts": 'import "./part.ts";',
    "bench/part.ts": "export {};",
  };
  assert.deepEqual(Object.keys((await emitted(t, files, /^bench\//)).modules), ["packages/a/src/main.js"]);
});
