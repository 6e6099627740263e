import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { link, mkdir, readdir, rm, utimes } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { test, type TestContext } from "node:test";
import { type CollectionReport, readConfig } from "@opensandbox/server";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import {
  makeCacheDirectories,
  provideTestImage,
  provideTestTemplate,
  provideTestWorkspace,
  templateKeyOf,
} from "../../packages/worker/src/cache/testing/made-cache.ts";
import { collect } from "../../packages/server/src/collection/collect.ts";
import { type EndedCli, firstOutput, startCli, type StartedCli } from "./cli.ts";

// Collection in whole processes, with the fake hypervisor. It has no templates, so the tests make them.

const program = [
  process.execPath,
  "--disable-warning=ExperimentalWarning",
  join(import.meta.dirname, "../../packages/cli/src/start.ts"),
] as const;
const dayMs = 24 * 3_600_000;
const never = new AbortController().signal;

interface World {
  readonly directories: Awaited<ReturnType<typeof makeCacheDirectories>>;
  start(args: readonly string[], more?: Readonly<Record<string, string>>): StartedCli;
  osb(args: readonly string[], more?: Readonly<Record<string, string>>): Promise<EndedCli>;
  /** Makes a template and its workspace, last used some days ago. */
  makeShape(diskMib: number, ageDays: number): Promise<void>;
  templates(): Promise<string[]>;
}

async function makeWorld(t: TestContext): Promise<World> {
  const directories = await makeCacheDirectories();
  const { dataDirectory, templatesDirectory } = directories;
  t.after(() => rm(dataDirectory, { recursive: true, force: true }));
  const env = {
    OPENSANDBOX_VM_BACKEND: "fake",
    OPENSANDBOX_ALLOW_FAKE: "1",
    OPENSANDBOX_DATA_DIR: dataDirectory,
    XDG_CONFIG_HOME: join(dataDirectory, "config"),
  };
  const start: World["start"] = (args, more) => startCli(program, args, { env: { ...env, ...more }, stdin: null });
  return {
    directories,
    start,
    osb: (args, more) => start(args, more).ended,
    async makeShape(diskMib, ageDays) {
      const workspace = await provideTestWorkspace(directories, diskMib);
      await provideTestTemplate(directories, diskMib, workspace);
      const time = new Date(Date.now() - ageDays * dayMs);
      for (const directory of [join(workspace, ".."), join(templatesDirectory, templateKeyOf(diskMib))]) {
        await utimes(join(directory, "manifest.json"), time, time);
      }
    },
    templates: async () => (await readdir(templatesDirectory)).filter((name) => /^[0-9a-f]{32}$/.test(name)),
  };
}

function reportOf({ code, stdout, stderr }: EndedCli): CollectionReport & { readonly dryRun: boolean } {
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout.toString()) as CollectionReport & { readonly dryRun: boolean };
}

test("osb gc removes old items, and a dry run lists them beforehand and removes nothing", async (t) => {
  const world = await makeWorld(t);
  await world.makeShape(1, 40);
  await world.makeShape(2, 3);
  const planned = reportOf(await world.osb(["gc", "--dry-run", "--json"]));
  assert.equal(planned.dryRun, true);
  assert.deepEqual(
    planned.removed.map(({ kind, reason }) => `${kind}: ${reason}`),
    ["template: unused for 40 days", "workspace: unused for 40 days"],
  );
  assert.equal((await world.templates()).length, 2);

  const { code, stdout, stderr } = await world.osb(["gc"]);
  assert.equal(code, 0, stderr);
  assert.match(stdout.toString(), /^KIND +NAME +UNUSED +SIZE +WHY\ntemplate +0{31}1 +40d .*\n.*\nfreed 0\.[34] MB\n$/);
  assert.deepEqual(await world.templates(), [templateKeyOf(2)]);
  assert.equal((await world.osb(["gc"])).stdout.toString(), "nothing to remove\n");

  const none = { OPENSANDBOX_CACHE_MAX_BYTES: "0" };
  const { bytes, removed } = reportOf(await world.osb(["gc", "--json"], none));
  assert.deepEqual(await world.templates(), []);
  assert.ok(bytes >= 320 * 1024 && removed.every(({ reason }) => reason === "the cache exceeds its limit"));
});

test("a server collects soon after its start, and osb gc beside it removes the row of an old sandbox", async (t) => {
  const world = await makeWorld(t);
  await world.makeShape(1, 40);
  const server = world.start(["up", "--port", "0", "--json"]);
  await using _ = {
    async [Symbol.asyncDispose]() {
      server.kill("SIGTERM");
      await server.ended;
    },
  };
  await firstOutput(server);
  const created = await world.osb(["create", "--json"]);
  const { id } = JSON.parse(created.stdout.toString()) as { id: string };
  assert.equal((await world.osb(["kill", id])).code, 0);
  await eventually("the server removes the template", async () => (await world.templates()).length === 0);
  const line = /"message":"collected: template","kind":"template","name":"0+1".*"reason":"unused for/;
  await eventually("the server logs the removal", () => line.test(server.stderr()));

  const database = new DatabaseSync(join(world.directories.dataDirectory, "opensandbox.sqlite"));
  database.prepare("UPDATE sandboxes SET ended_at = ? WHERE id = ?").run(Date.now() - 31 * dayMs, id);
  database.close();
  assert.match((await world.osb(["get", id])).stdout.toString(), /stopped/);
  const { removed } = reportOf(await world.osb(["gc", "--json"]));
  assert.deepEqual(
    removed.map(({ kind, name }) => [kind, name]),
    [["rows of stopped sandboxes", "1 row"]],
  );
  assert.match((await world.osb(["get", id])).stderr, /not found/);
});

test("an interrupted collection keeps what it has not reached, and the next one removes it", async (t) => {
  const world = await makeWorld(t);
  const { directories } = world;
  for (const diskMib of [1, 2, 3]) await world.makeShape(diskMib, 40 + diskMib);
  const interrupt = new AbortController();
  const sources = { directories, rows: undefined, removeUnwantedSnapshots: async () => undefined };
  const options = { maxBytes: 0, shortBytes: 0, retentionDays: 30, dryRun: false, now: new Date() };
  let steps = 0;
  const onProgress = (step: string): void => {
    if (step.startsWith("removing") && ++steps === 2) interrupt.abort();
  };
  const first = await collect(sources, { ...options, onProgress, signal: interrupt.signal });
  assert.ok(first.removed.length > 0 && first.removed.length < 6);
  assert.deepEqual(first.failed, []);
  const left = (await world.templates()).length;
  const second = await collect(sources, { ...options, signal: never });
  assert.equal(first.removed.length + second.removed.length, 6);
  assert.ok(left > 0 && (await world.templates()).length === 0);
});

test("the disks of a machine without a journal entry are moved aside, and removed after the time of retention", async (t) => {
  const world = await makeWorld(t);
  const { directories } = world;
  const { dataDirectory } = directories;
  await world.makeShape(1, 0);
  const machine = join(dataDirectory, "machines", "m-00000001");
  await mkdir(machine, { recursive: true });
  await link(join(directories.templatesDirectory, templateKeyOf(1), "memory.base"), join(machine, "memory.base"));
  const sources = { directories, rows: undefined, removeUnwantedSnapshots: async () => undefined };
  const at = async (days: number, dryRun = false): Promise<string[]> => {
    const now = new Date(Date.now() + days * dayMs);
    const options = { maxBytes: 2 ** 40, shortBytes: 0, retentionDays: 30, dryRun, now, signal: never };
    const machines = (await collect(sources, options)).removed.filter(({ kind }) => kind.includes("machine"));
    return machines.map(({ kind, name }) => `${kind} ${name.slice(0, 10)}`);
  };
  assert.deepEqual(await at(0), [], "a start may have made it just now");
  assert.deepEqual(await at(1, true), ["machine m-00000001"]);
  assert.ok(existsSync(machine));
  assert.deepEqual(await at(1), ["machine m-00000001"]);
  assert.deepEqual(await readdir(join(dataDirectory, "machines")), ["lost+found"]);
  assert.deepEqual(await at(30), []);
  assert.deepEqual(await at(32), ["lost machine m-00000001"]);
  assert.deepEqual(await readdir(join(dataDirectory, "machines", "lost+found")), []);
});

test("doctor shows what takes how much, and a file with several names once", async (t) => {
  const world = await makeWorld(t);
  for (const diskMib of [1, 2]) await world.makeShape(diskMib, 1);
  const { stdout } = await world.osb(["doctor", "--json"]);
  const findings = JSON.parse(stdout.toString()) as { name: string; detail: string }[];
  const detailOf = (name: string): string | undefined => findings.find((finding) => finding.name === name)?.detail;
  // Two workspaces of 64 KiB, two templates of 256 KiB, and their manifests and directories of 4 KiB.
  assert.equal(detailOf("images"), "0.1 MiB: 2 workspaces");
  assert.equal(detailOf("templates"), "0.5 MiB: 2 templates");
  assert.equal(detailOf("machines"), "0.0 MiB: 0 machines");
  assert.match(detailOf("cache") ?? "", /^0\.7 MiB of images and templates that nothing uses, at most \d+\.\d GiB/);
});

test("the settings of retention are checked", () => {
  const config = readConfig({ OPENSANDBOX_CACHE_MAX_BYTES: "1000000", OPENSANDBOX_RETENTION_DAYS: "7" });
  assert.deepEqual([config.cacheMaxBytes, config.retentionDays], [1_000_000, 7]);
  assert.deepEqual([readConfig({}).cacheMaxBytes, readConfig({}).retentionDays], [undefined, 30]);
  assert.throws(() => readConfig({ OPENSANDBOX_CACHE_MAX_BYTES: "10G" }), /OPENSANDBOX_CACHE_MAX_BYTES=10G: must be/);
});

test("osb image ls says what images take, and osb image prune removes what nothing used for a time", async (t) => {
  const world = await makeWorld(t);
  const file = await provideTestImage(world.directories, "example.org/app:1");
  await provideTestTemplate(world.directories, 1, file);
  const { stdout } = await world.osb(["image", "ls"]);
  const [row, total] = [
    /\nexample\.org\/app:1 +\d+[sm] ago +0\.[12] MB +0\.[34] MB +\d+[sm] ago /,
    /\ntotal 0\.[45] MB, .*\n$/,
  ];
  for (const line of [row, total]) assert.match(stdout.toString(), line);
  const time = new Date(Date.now() - 40 * dayMs);
  const template = join(world.directories.templatesDirectory, templateKeyOf(1));
  for (const directory of [join(file, ".."), template]) await utimes(join(directory, "manifest.json"), time, time);
  const planned = await world.osb(["image", "prune", "--dry-run"]);
  assert.match(
    planned.stdout.toString(),
    /\ntemplate +\w+ of example\.org\/app:1 .*\nimage +example\.org\/app:1 +40d .*\nwould free 0\.[34] MB\n$/,
  );
  const { removed } = reportOf(await world.osb(["image", "prune", "--unused-for", "39", "--json"]));
  assert.deepEqual(
    removed.map(({ kind, image }) => `${kind} of ${image}`),
    ["template of example.org/app:1", "image of example.org/app:1"],
  );
  assert.deepEqual([await world.templates(), existsSync(file)], [[], false]);
});
