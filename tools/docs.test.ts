import assert from "node:assert/strict";
import { existsSync, globSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const documents = globSync(["*.md", "docs/**/*.md"], { cwd: root });

/** Below these directories, a word in code type is a path that must exist. */
const folders = /^(packages|tests|tools|docs|images|bench|openapi|deploy|\.ci)\/[^\s`]*$/;

for (const document of documents) {
  test(`${document} names only paths that exist`, () => {
    const text = read(document);
    const named = [...text.matchAll(/`([^`\n]+)`/g)].map(([, code = ""]) => code).filter((code) => folders.test(code));
    const missing = named.filter((path) => !existsSync(join(root, path)) && globSync(path, { cwd: root }).length === 0);
    assert.deepEqual(missing, []);
    const links = [...text.matchAll(/\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)/g)].map(([, link = ""]) => link);
    const broken = links.filter((link) => !existsSync(join(root, dirname(document), link)));
    assert.deepEqual(broken, []);
  });
}

test("the README has every setting of a server and no other", () => {
  const variables = /OPENSANDBOX_[A-Z_]+/g;
  const [, settings = ""] = /^## Settings$(.*?)^The command line/ms.exec(read("README.md")) ?? [];
  assert.deepEqual(distinct(settings, variables), distinct(read("packages/server/src/config.ts"), variables));
});

test("the README gives a reason for every dependency", () => {
  const [, reasons = ""] = /^## Dependencies$(.*?)^## /ms.exec(read("README.md")) ?? [];
  const manifests = ["package.json", ...globSync("packages/*/package.json", { cwd: root })];
  const needed = manifests.flatMap((file) => {
    const { dependencies = {}, devDependencies = {} } = JSON.parse(read(file)) as Record<string, object>;
    return Object.keys({ ...dependencies, ...devDependencies });
  });
  const ours = new Set(needed.filter((name) => !name.startsWith("@opensandbox/")));
  const explained = new Set([...reasons.matchAll(/`([^`]+)`/g)].map(([, name = ""]) => name));
  assert.deepEqual(
    [...ours].filter((name) => !explained.has(name)),
    [],
  );
});

test("the states in ARCHITECTURE.md are those of the code", async () => {
  const { moves } = await import("../packages/control-plane/src/lifecycle/sandbox-lifecycle.ts");
  const [, table = ""] = /^## States$(.*?)^## /ms.exec(read("ARCHITECTURE.md")) ?? [];
  const said = [...table.matchAll(/^\| `(\w+)` +\| `(\w+)` +\| `(\w+)` +\|/gm)].map(([, from, move, to]) => [
    from,
    move,
    to,
  ]);
  const real = Object.entries(moves).flatMap(([from, ways]) =>
    Object.entries(ways).map(([move, to]: [string, string]) => [from, move, to]),
  );
  const inOrder = (rows: readonly (readonly (string | undefined)[])[]) => rows.map((row) => row.join(" ")).toSorted();
  assert.deepEqual(inOrder(said), inOrder(real));
});

for (const document of ["docs/faults.md", "docs/security.md"]) {
  test(`the tests that ${document} names are there`, () => {
    const named = [...read(document).matchAll(/`([^`]+\.test\.ts)`: "([^"]+)"/g)];
    assert.ok(named.length > 0);
    const missing = named.filter(([, file = "", name = ""]) => {
      const text = existsSync(join(root, file)) ? read(file) : "";
      return !['"', "`"].some((quote) => text.includes(quote + name));
    });
    assert.deepEqual(
      missing.map(([found]) => found),
      [],
    );
  });
}

test("decisions are numbered one after another", () => {
  const numbers = globSync("docs/decisions/*.md", { cwd: root }).map((file) => Number(/(\d{4})-/.exec(file)?.[1]));
  assert.deepEqual(
    numbers.toSorted((a, b) => a - b),
    numbers.map((_, index) => index + 1),
  );
});

function read(path: string): string {
  return readFileSync(join(root, path), "utf8");
}

function distinct(text: string, pattern: RegExp): string[] {
  return [...new Set(text.match(pattern))].toSorted();
}
