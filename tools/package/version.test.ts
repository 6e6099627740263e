import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { version } from "../../packages/wire/src/version.ts";

const root = resolve(import.meta.dirname, "../..");

for (const file of ["package.json", ...globSync("packages/*/package.json", { cwd: root })]) {
  test(`${file} has the version of the release, and so have its dependencies on other packages of this repository`, () => {
    const manifest = JSON.parse(readFileSync(join(root, file), "utf8")) as {
      readonly version: string;
      readonly dependencies?: Readonly<Record<string, string>>;
    };
    assert.equal(manifest.version, version);
    const own = Object.entries(manifest.dependencies ?? {}).filter(([name]) => name.startsWith("@opensandbox/"));
    for (const [name, wanted] of own) assert.equal(wanted, version, name);
  });
}
