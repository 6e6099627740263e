import assert from "node:assert/strict";
import { chmod, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { after, before, suite, test } from "node:test";
import { version } from "@opensandbox/wire/version.ts";
import { type EndedCli, firstOutput, startCli, type StartedCli } from "../e2e/cli.ts";
import { type InstalledPackage, installPackage } from "./installed-package.ts";

// The published package in an empty directory, with the fake hypervisor.

const listModules = join(import.meta.dirname, "../fleet/list-modules.ts");

suite("the published package", () => {
  const stack = new AsyncDisposableStack();
  let installed: InstalledPackage;
  let env: Record<string, string>;

  const start = (args: readonly string[], more: Record<string, string> = {}): StartedCli =>
    startCli([installed.osb], args, { env: { ...env, ...more }, stdin: null });
  const osb = async (args: readonly string[], more?: Record<string, string>): Promise<EndedCli> =>
    await start(args, more).ended;

  before(async () => {
    installed = await installPackage((undo) => stack.defer(undo));
    await chmod(installed.directory, 0o711);
    env = {
      OPENSANDBOX_VM_BACKEND: "fake",
      OPENSANDBOX_ALLOW_FAKE: "1",
      OPENSANDBOX_DATA_DIR: join(installed.directory, "data"),
      HOME: installed.directory,
      XDG_CONFIG_HOME: join(installed.directory, "config"),
      XDG_CACHE_HOME: join(installed.directory, "cache"),
    };
  });
  after(() => stack.disposeAsync());

  test("osb --version prints the version of the release", async () => {
    const { code, stdout, stderr } = await osb(["--version"]);
    assert.deepEqual([code, stderr], [0, ""]);
    assert.equal(stdout.toString(), `osb ${version} (Node ${process.versions.node})\n`);
  });

  test("osb doctor runs, and every module that it loads is part of the package", async () => {
    const { stdout, stderr } = await osb(["doctor", "--json"], { NODE_OPTIONS: `--import=${listModules}` });
    assert.ok((JSON.parse(stdout.toString()) as unknown[]).length > 3, stdout.toString());
    const loaded = [...stderr.matchAll(/^module file:\/\/(.*)$/gm)].map(([, path = ""]) => path);
    const root = `${join(dirname(installed.osb), "../opensandbox")}/`;
    assert.ok(loaded.length > 100, `${loaded.length} modules`);
    assert.deepEqual(
      loaded.filter((path) => !path.startsWith(root)),
      [],
    );
  });

  test("a server of it keeps a sandbox, and shows the dashboard and the API's documentation", async () => {
    const server = start(["up", "--port", "0", "--json"]);
    const { url } = JSON.parse(await firstOutput(server)) as { readonly url: string };
    const id = (await osb(["create"])).stdout.toString().trim();
    const { code, stdout, stderr } = await osb(["exec", id, "--", "sh", "-c", "echo from a sandbox"]);
    assert.deepEqual([code, stdout.toString()], [0, "from a sandbox\n"], stderr);
    const page = await fetch(new URL("/docs/api/swagger-ui.css", url));
    assert.equal(page.status, 200);
    assert.ok((await page.text()).length > 10_000);
    assert.match(await (await fetch(new URL("/docs/guides/quick-start", url))).text(), /<h1[^>]*>Quick start/);
    const dashboard = await (await fetch(new URL("/dashboard", url))).text();
    const scripts = [...dashboard.matchAll(/(?:src|href)="(\/dashboard\/assets\/[^"]+\.js)"/g)];
    assert.ok(scripts.length > 0, dashboard);
    for (const [, script = ""] of scripts) assert.equal((await fetch(new URL(script, url))).status, 200, script);
    assert.equal((await osb(["kill", id])).code, 0);
    server.kill("SIGTERM");
    assert.equal((await server.ended).code, 0, server.stderr());
  });

  test("a command that needs the sources says so", async () => {
    const { code, stderr } = await osb(["bench"]);
    assert.equal(code, 1);
    assert.match(stderr, /^osb: 'osb bench' works in a checkout of the sources, and .* is an installed package$/m);
  });

  test("the package's dependencies are exact versions", async () => {
    const manifest = join(dirname(installed.osb), "../opensandbox/package.json");
    const { dependencies } = JSON.parse(await readFile(manifest, "utf8")) as { dependencies: Record<string, string> };
    for (const wanted of Object.values(dependencies)) assert.match(wanted, /^\d+\.\d+\.\d+$/);
  });
});
