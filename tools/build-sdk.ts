// Builds the SDK's package. Usage: node tools/build-sdk.ts DIRECTORY, then `npm publish DIRECTORY`.
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";

const root = resolve(import.meta.dirname, "..");
const sources = join(root, "packages/sdk");

const [target] = process.argv.slice(2);
if (target === undefined) {
  process.stderr.write("usage: node tools/build-sdk.ts DIRECTORY\n");
  process.exit(2);
}
mkdirSync(target, { recursive: true });
const bundled = spawnSync(process.execPath, [join(root, "node_modules/.bin/tsdown"), "--out-dir", resolve(target)], {
  cwd: sources,
  stdio: ["ignore", "ignore", "inherit"],
});
if (bundled.status !== 0) process.exit(bundled.status ?? 1);

// The bundler of declarations leaves an unused import.
const declarations = join(target, "index.d.ts");
writeFileSync(declarations, readFileSync(declarations, "utf8").replace('import { z } from "zod";\n', ""));

interface Manifest {
  readonly version: string;
  readonly dependencies: Readonly<Record<string, string>>;
}

const own = JSON.parse(readFileSync(join(sources, "package.json"), "utf8")) as Manifest;
const { "@opensandbox/wire": _bundled, ...dependencies } = own.dependencies;
const manifest = {
  name: "@opensandbox/sdk",
  version: own.version,
  description: "A real Linux machine for every AI agent: the client of OpenSandbox",
  license: "Apache-2.0",
  type: "module",
  engines: { node: ">=20" },
  sideEffects: false,
  exports: { ".": { types: "./index.d.ts", default: "./index.js" }, "./package.json": "./package.json" },
  files: ["index.js", "index.d.ts", "README.md", "LICENSE"],
  dependencies,
};
writeFileSync(join(target, "package.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
copyFileSync(join(sources, "README.md"), join(target, "README.md"));
copyFileSync(join(root, "LICENSE"), join(target, "LICENSE"));
