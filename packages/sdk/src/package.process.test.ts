// The published package: built, packed and used as by its users.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { access, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { after, before, suite, test } from "node:test";
import { promisify } from "node:util";
import { checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { build } from "tsdown";
import { startWorld, type World } from "../../../tests/e2e/world.ts";

const root = resolve(import.meta.dirname, "../../..");
const run = promisify(execFile);

suite("the published SDK", () => {
  const stack = new AsyncDisposableStack();
  let directory: string;
  let built: string;
  /** A project that depends on the package. */
  let project: string;
  let tarball: string;
  let world: World;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-sdk-"));
    stack.defer(() => rm(directory, { recursive: true }));
    built = join(directory, "built");
    project = join(directory, "project");
    await run(process.execPath, [join(root, "tools/build-sdk.ts"), built]);
    const { stdout } = await run("npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", directory], {
      cwd: built,
    });
    tarball = join(directory, (JSON.parse(stdout) as [{ filename: string }])[0].filename);
    const modules = join(project, "node_modules/@opensandbox/sdk");
    await mkdir(modules, { recursive: true });
    await run("tar", ["-xzf", tarball, "-C", modules, "--strip-components=1"]);
    const { dependencies } = JSON.parse(await readFile(join(built, "package.json"), "utf8")) as {
      dependencies: Readonly<Record<string, string>>;
    };
    for (const name of Object.keys(dependencies)) {
      await symlink(join(root, "node_modules", name), join(project, "node_modules", name));
    }
    await writeFile(join(project, "package.json"), JSON.stringify({ type: "module" }));
    world = stack.use(await startWorld({ OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" }));
  });
  after(() => stack.disposeAsync());

  test("publint finds nothing", async () => {
    const { messages, pkg } = await publint({ pkgDir: built, strict: true });
    assert.deepEqual(
      messages.map((message) => formatMessage(message, pkg ?? {})),
      [],
    );
  });

  test("its types resolve in every module resolution", async () => {
    const analysis = await checkPackage(createPackageFromTarballData(new Uint8Array(await readFile(tarball))));
    assert.ok(analysis.types !== false);
    // The package has no CommonJS build: `require` of Node loads ES modules.
    assert.deepEqual(
      analysis.problems.filter(({ kind }) => kind !== "CJSResolvesToESM"),
      [],
    );
  });

  test("it contains the wire and imports no module of Node statically", async () => {
    for (const name of ["index.js", "index.d.ts"]) {
      const text = await readFile(join(built, name), "utf8");
      assert.doesNotMatch(text, /from "(@opensandbox\/|node:)/, name);
    }
    assert.doesNotMatch(await readFile(join(built, "index.d.ts"), "utf8"), /zod/);
  });

  for (const module of ["nodenext", "bundler"]) {
    test(`the examples compile against it with ${module} resolution`, async () => {
      const examples = join(root, "packages/sdk/examples");
      for (const name of await readdir(examples)) {
        await writeFile(join(project, name), await readFile(join(examples, name)));
      }
      const documented = await documentedExamples();
      assert.ok(documented.length >= 20, `${documented.length} calls have an example`);
      for (const [index, example] of documented.entries()) {
        await writeFile(join(project, `documented-${index}.ts`), compilable(example));
      }
      const options = {
        ...{ strict: true, noEmit: true, target: "es2024", lib: ["esnext", "dom", "dom.asynciterable"], types: [] },
        ...(module === "nodenext" ? { module } : { module: "esnext", moduleResolution: module }),
      };
      await writeFile(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions: options, include: ["*.ts"] }));
      await run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", project]).catch(
        ({ stdout }: { stdout: string }) => assert.fail(stdout),
      );
    });
  }

  test("it runs in every installed Node from version 20 on", async (t) => {
    await writeFile(join(project, "smoke.mjs"), smoke);
    const programs = new Set([process.execPath]);
    for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
      const program = join(folder, "node");
      const version = await run(program, ["--version"]).catch(() => undefined);
      if (Number(/^v(\d+)/.exec(version?.stdout ?? "")?.[1]) >= 20) programs.add(program);
    }
    for (const program of programs) {
      await access(program);
      const { stdout: version } = await run(program, ["--version"]);
      t.diagnostic(version.trim());
      await smokes([program, "smoke.mjs"]);
    }
  });

  for (const [program, ...args] of [
    ["bun", "smoke.mjs"],
    ["deno", "run", "--allow-all", "smoke.mjs"],
  ] as const) {
    test(`it runs in ${program}`, async (t) => {
      const installed = await run(program, ["--version"]).catch(() => undefined);
      if (installed === undefined) return t.skip(`${program} is not installed`);
      t.diagnostic(installed.stdout.trim());
      await writeFile(join(project, "smoke.mjs"), smoke);
      await smokes([program, ...args]);
    });
  }

  test("it runs without Node's globals, bundled for browsers", async () => {
    await writeFile(join(project, "page.js"), smoke);
    const outDir = join(directory, "page");
    const [bundle] = await build({
      ...{ cwd: project, entry: ["page.js"], outDir, config: false, tsconfig: false, dts: false, logLevel: "warn" },
      ...{ platform: "browser", format: "esm", deps: { alwaysBundle: [/./] }, report: false },
    });
    const chunks = (bundle?.chunks ?? []).filter((chunk) => chunk.type === "chunk");
    assert.ok(chunks.length > 0);
    const imported = chunks.flatMap(({ imports, dynamicImports }) => [...imports, ...dynamicImports]);
    const names = new Set(chunks.map(({ fileName }) => fileName));
    assert.deepEqual(
      imported.filter((name) => !names.has(name)),
      [],
      "the bundle contains every import, dynamic ones included",
    );
    const entry = chunks.find(({ isEntry }) => isEntry)?.fileName ?? assert.fail("the bundle has no entry");
    // `Buffer` stays: Node's own `fetch` needs it.
    const page = `globalThis.connection = ${JSON.stringify({ url: world.url, apiKey: world.apiKey })};
for (const name of ["process", "global", "setImmediate"]) delete globalThis[name];
await import("./${entry}");
`;
    await writeFile(join(outDir, "page-without-node.mjs"), page);
    await smokes([process.execPath, join(outDir, "page-without-node.mjs")]);
  });

  async function smokes([program, ...args]: readonly [string, ...string[]]): Promise<void> {
    const { stdout } = await run(program, args, {
      cwd: project,
      env: { ...process.env, OPENSANDBOX_API_URL: world.url, OPENSANDBOX_API_KEY: world.apiKey },
    });
    assert.deepEqual(JSON.parse(stdout), ["from inside\n", "streamed", 0, "content", "not_found"]);
  }
});

/** A short program of a user. */
const smoke = `import { Sandbox, isSandboxError } from "@opensandbox/sdk";
const sandbox = await Sandbox.create(globalThis.connection);
const { stdout } = await sandbox.exec.run("echo from inside");
const command = await sandbox.exec.stream("cat", { stdin: true });
await command.write(new TextEncoder().encode("streamed"));
await command.closeStdin();
let streamed = "";
for await (const { bytes } of command.output) streamed += new TextDecoder().decode(bytes);
await sandbox.files.write("file", "content");
const text = await sandbox.files.readText("file");
const missing = await sandbox.files.readText("missing").catch((error) => isSandboxError(error) && error.code);
await sandbox.kill();
console.log(JSON.stringify([stdout, streamed, await command.exitCode, text, missing]));
`;

/** The examples in the documentation of calls. */
async function documentedExamples(): Promise<readonly string[]> {
  const texts = ["sandbox.ts", "client.ts"].map((name) => readFile(join(import.meta.dirname, name), "utf8"));
  return (await Promise.all(texts)).flatMap((text) =>
    [...text.matchAll(/@example\n((?: *\* .*\n)+) *\*\//g)].map(([, lines = ""]) => lines.replaceAll(/^ *\* /gm, "")),
  );
}

/** Declares the names that the surrounding documentation introduces. */
function compilable(example: string): string {
  return `import { connect, Sandbox } from "@opensandbox/sdk";
declare const id: string;
declare const sandbox: Sandbox;
{
${example}}
void [connect, id, sandbox];
`;
}
