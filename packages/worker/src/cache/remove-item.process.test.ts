import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { link, mkdir, readdir, readFile, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import type { Log } from "#host/log.ts";
import { holdDirectory } from "#host/storage/directory-lock.ts";
import { allocatedBytes, filesBelow } from "#host/storage/disk-use.ts";
import { manifestFile } from "#host/storage/immutable-directories.ts";
import type { CacheDirectories } from "./cache-directories.ts";
import { cacheItems, pathOf } from "./cache-items.ts";
import { examineDiskUse } from "./examine-disk-use.ts";
import { usesOfImages } from "./image-use.ts";
import { removeItem, removeLeftovers } from "./remove-item.ts";
import { recentMs, type Retention, selectRemovals } from "./select-removals.ts";
import { registerSymbolicUser } from "./symbolic-users.ts";
import {
  makeCacheDirectories,
  memoryDirectory,
  provideTestImage,
  provideTestTemplate,
  provideTestWorkspace,
  templateKeyOf,
} from "./testing/made-cache.ts";

const everything: Retention = { maxBytes: 0, maxAgeMs: undefined };

const failOnWarning: Log = (level, message) => assert.fail(`${level}: ${message}`);

async function cacheFor(t: TestContext, parent?: string): Promise<CacheDirectories> {
  const directories = await makeCacheDirectories(parent);
  t.after(() => rm(directories.dataDirectory, { recursive: true, force: true }));
  return directories;
}

async function makeShape(directories: CacheDirectories, diskMib: number): Promise<void> {
  await provideTestTemplate(directories, diskMib, await provideTestWorkspace(directories, diskMib));
}

/** Collects as if the last use of everything were a while ago. Returns the names of what was removed. */
async function collectAll(directories: CacheDirectories, retention = everything): Promise<string[]> {
  const later = new Date(Date.now() + 2 * recentMs);
  const removed: string[] = [];
  for (const { item } of selectRemovals(await cacheItems(directories, failOnWarning), retention, later).removals) {
    if (await removeItem(item, directories)) removed.push(item.name);
  }
  return removed;
}

async function namesLeft({ imagesDirectory, templatesDirectory }: CacheDirectories): Promise<string[]> {
  const names = await Promise.all(
    [imagesDirectory, templatesDirectory].flatMap((parent) => [readdir(parent), readdir(join(parent, "locks"))]),
  );
  return names.flat().filter((name) => name !== "locks");
}

async function runModule(source: string, ...args: readonly string[]): Promise<ChildProcess> {
  const argv = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", source, ...args];
  const child = spawn(process.execPath, argv, { stdio: ["ignore", "inherit", "inherit"] });
  await once(child, "exit", { signal: AbortSignal.timeout(60_000) });
  return child;
}

test("300 disk sizes stay within the size of the cache, and leave no file when it is emptied", async (t) => {
  const directories = await cacheFor(t, memoryDirectory);
  const maxBytes = 4 * 2 ** 20;
  for (let diskMib = 1; diskMib <= 300; diskMib += 1) {
    await makeShape(directories, diskMib);
    if (diskMib % 10 !== 0) continue;
    await collectAll(directories, { ...everything, maxBytes });
    const { unusedBytes } = selectRemovals(await cacheItems(directories, failOnWarning), everything, new Date());
    assert.ok(unusedBytes <= maxBytes, `${diskMib} sizes take ${unusedBytes} bytes`);
    const { imagesDirectory, templatesDirectory } = directories;
    const files = [...(await filesBelow(imagesDirectory)), ...(await filesBelow(templatesDirectory))];
    const allocated = allocatedBytes(files);
    // The directories and locks themselves.
    assert.ok(allocated <= maxBytes + 2 ** 20, `${diskMib} sizes allocate ${allocated} bytes`);
    const latest = await readdir(join(templatesDirectory, templateKeyOf(diskMib)));
    assert.ok(latest.includes("memory.base"), "the latest shape has its own template");
  }
  await collectAll(directories);
  await removeLeftovers(directories);
  assert.deepEqual(await namesLeft(directories), []);
});

test("a template that a machine or a snapshot has links to stays, with the workspace below it", async (t) => {
  const directories = await cacheFor(t);
  for (const diskMib of [1, 2, 3]) await makeShape(directories, diskMib);
  for (const [diskMib, user] of [
    [1, "machines/m-1"],
    [2, "snapshots/cp-1"],
  ] as const) {
    const directory = join(directories.dataDirectory, user);
    await mkdir(directory, { recursive: true });
    for (const file of ["memory.base", "workspace.base"]) {
      await link(join(directories.templatesDirectory, templateKeyOf(diskMib), file), join(directory, file));
    }
  }
  const removed = await collectAll(directories);
  assert.equal(removed.length, 2);
  assert.ok(removed.includes(templateKeyOf(3)));
});

test("a template in use since it was selected stays: by a start that holds it, by its last use, by a new link", async (t) => {
  const directories = await cacheFor(t);
  await makeShape(directories, 1);
  const [item] = (await cacheItems(directories, failOnWarning)).filter(({ kind }) => kind === "template");
  assert.ok(item !== undefined);
  const path = pathOf(item, directories);
  {
    using held = await holdDirectory(path);
    assert.ok(held !== undefined);
    assert.equal(await removeItem(item, directories), false);
  }
  const later = new Date(item.lastUsed.getTime() + 1000);
  await utimes(join(path, manifestFile), later, later);
  assert.equal(await removeItem(item, directories), false);
  await utimes(join(path, manifestFile), item.lastUsed, item.lastUsed);
  const machine = join(directories.dataDirectory, "memory.base");
  await link(join(path, "memory.base"), machine);
  assert.equal(await removeItem(item, directories), false);
  await rm(machine);
  assert.equal(await removeItem(item, directories), true);
  assert.equal(await holdDirectory(path), undefined);
});

test("starts in another process find every file that they hold, while a collector removes all it can", async (t) => {
  const directories = await cacheFor(t);
  const program = fileURLToPath(import.meta.resolve("./testing/use-templates.ts"));
  const argv = ["--disable-warning=ExperimentalWarning", program, directories.dataDirectory, "3000"];
  const child = spawn(process.execPath, argv, { stdio: ["ignore", "pipe", "inherit"] });
  let printed = "";
  child.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  const exited = once(child, "exit", { signal: AbortSignal.timeout(60_000) });
  let removed = 0;
  while (child.exitCode === null && child.signalCode === null) {
    removed += (await collectAll(directories)).length;
    await removeLeftovers(directories);
  }
  assert.deepEqual(await exited, [0, null]);
  assert.ok(removed > 0 && Number(printed) > 0, `${removed} removals beside ${printed.trim()} uses`);
  await collectAll(directories);
  await removeLeftovers(directories);
  assert.deepEqual(await namesLeft(directories), []);
});

test("a collector that is killed in the middle of a removal leaves nothing that counts, and the next one finishes", async (t) => {
  const directories = await cacheFor(t);
  for (const diskMib of [1, 2]) await makeShape(directories, diskMib);
  const source = `
    import { armFailpoints } from "${import.meta.resolve("#host/failpoints.ts")}";
    import { cacheItems } from "${import.meta.resolve("./cache-items.ts")}";
    import { removeItem } from "${import.meta.resolve("./remove-item.ts")}";
    armFailpoints("empty removed directory=exit");
    const [dataDirectory, imagesDirectory, templatesDirectory, kind] = process.argv.slice(-4);
    const directories = { dataDirectory, imagesDirectory, templatesDirectory };
    const item = (await cacheItems(directories, () => undefined)).find((item) => item.kind === kind);
    await removeItem(item, directories);
  `;
  const { dataDirectory, imagesDirectory, templatesDirectory } = directories;
  for (const kind of ["template", "workspace"]) {
    const child = await runModule(source, dataDirectory, imagesDirectory, templatesDirectory, kind);
    assert.equal(child.signalCode, "SIGKILL");
  }
  const hidden = [...(await readdir(imagesDirectory)), ...(await readdir(templatesDirectory))];
  assert.equal(hidden.filter((name) => name.startsWith(".removed-")).length, 2);
  assert.equal((await cacheItems(directories, failOnWarning)).length, 2);
  await makeShape(directories, 1);
  await makeShape(directories, 2);
  assert.equal((await cacheItems(directories, failOnWarning)).length, 4, "the next starts make both again");

  await removeLeftovers(directories);
  await collectAll(directories);
  await removeLeftovers(directories);
  assert.deepEqual(await namesLeft(directories), []);
});

test("items that a registered data directory links to are kept, and every item is kept while the directory is away", async (t) => {
  const directories = await cacheFor(t);
  const { registration, user, firstWorkspace } = await registerUser(directories);
  assert.deepEqual(await neededIn(directories, failOnWarning), [firstWorkspace]);
  await rm(user, { recursive: true });
  const warnings: object[] = [];
  assert.equal((await neededIn(directories, (level, _, fields) => warnings.push({ level, ...fields }))).length, 2);
  const { imagesDirectory: cache } = directories;
  assert.partialDeepStrictEqual(warnings, [{ level: "warn", cache, dataDirectory: user }]);
  const longAgo = new Date(Date.now() - 8 * 24 * 3_600_000);
  await utimes(registration, longAgo, longAgo);
  assert.deepEqual(await neededIn(directories, failOnWarning), []);
});

test("a registered data directory that answers with an error counts as in use, is logged, and is never forgotten", async (t) => {
  const directories = await cacheFor(t);
  const { registration, user } = await registerUser(directories);
  const longAgo = new Date(Date.now() - 365 * 24 * 3_600_000);
  await utimes(registration, longAgo, longAgo);
  // A link that leads to itself answers with ELOOP to every user, as a broken disk answers with EIO.
  for (const broken of [join(user, "snapshots"), user]) {
    await rm(broken, { recursive: true, force: true });
    await symlink(broken, broken);
    const warnings: string[] = [];
    const needed = await neededIn(directories, (level, message, fields) =>
      warnings.push(`${level}: ${message} ${JSON.stringify(fields)}`),
    );
    assert.equal(needed.length, 2);
    assert.equal(warnings.length, 1);
    assert.match(warnings[0] ?? "", /^warn: .*nothing is removed from the cache .*ELOOP/);
    await readFile(registration);
    const found = await examineDiskUse(directories, { maxBytes: 0 });
    assert.match(found.map(({ detail }) => detail).join("\n"), /\/user uses .* cannot be read \(ELOOP\): no image/);
  }
});

/** Registers a data directory in which one machine has a symbolic link to the first of two workspaces. */
async function registerUser(
  directories: CacheDirectories,
): Promise<{ readonly registration: string; readonly user: string; readonly firstWorkspace: string }> {
  const first = await provideTestWorkspace(directories, 1);
  await provideTestWorkspace(directories, 2);
  const user = join(directories.dataDirectory, "user");
  const machine = join(user, "machines", "m-1");
  await mkdir(machine, { recursive: true });
  await symlink(first, join(machine, "workspace.base"));
  const users = join(directories.imagesDirectory, ".users");
  await mkdir(users);
  const registration = join(users, "0123456789abcdef");
  await writeFile(registration, `${user}\n`);
  return { registration, user, firstWorkspace: dirname(first) };
}

/** Directories of the items that no collection may remove. */
async function neededIn(directories: CacheDirectories, log: Log): Promise<readonly string[]> {
  const items = await cacheItems(directories, log);
  return items.filter(({ isNeeded }) => isNeeded).map((item) => pathOf(item, directories));
}

test("a data directory on the file system of its caches needs no registration", async (t) => {
  const directories = await cacheFor(t);
  await provideTestWorkspace(directories, 1);
  await registerSymbolicUser(directories, failOnWarning);
  assert.ok(!(await readdir(directories.imagesDirectory)).includes(".users"));
  const elsewhere = { ...directories, dataDirectory: memoryDirectory };
  const registered = await registerSymbolicUser(elsewhere, failOnWarning);
  const [name = ""] = await readdir(join(directories.imagesDirectory, ".users"));
  assert.equal(await readFile(join(directories.imagesDirectory, ".users", name), "utf8"), `${memoryDirectory}\n`);
  await registered[Symbol.asyncDispose]();
  assert.deepEqual(await readdir(join(directories.imagesDirectory, ".users")), [], "it has no machine and no snapshot");
});

test("a prune of images takes current builds that nothing needs, with their templates, and nothing that is needed", async (t) => {
  const directories = await cacheFor(t);
  const { dataDirectory, imagesDirectory } = directories;
  const pruned = async (maxAgeMs: number) => {
    const later = new Date(Date.now() + 2 * recentMs);
    const items = await cacheItems(directories, failOnWarning, "everything but images");
    const retention = { maxBytes: Number.POSITIVE_INFINITY, maxAgeMs };
    const removed: string[] = [];
    for (const { item } of selectRemovals(items, retention, later).removals) {
      if (await removeItem(item, directories)) removed.push(`${item.kind} of ${item.image}`);
    }
    return removed;
  };
  await provideTestWorkspace(directories, 1);
  await provideTestTemplate(directories, 2, await provideTestImage(directories, "unused"));
  const used = await provideTestImage(directories, "used");
  await provideTestTemplate(directories, 3, used);
  await mkdir(join(dataDirectory, "snapshots/cp-1"), { recursive: true });
  await link(used, join(dataDirectory, "snapshots/cp-1/root.base"));

  assert.deepEqual(await pruned(3 * recentMs), [], "everything was used in that time");
  const collected = await collectAll(directories);
  assert.equal(collected.length, 3, "the collector keeps current builds, and takes two templates and a workspace");
  await provideTestTemplate(directories, 2, await provideTestImage(directories, "unused"));
  assert.deepEqual(await pruned(recentMs), ["template of unused", "image of unused"]);
  await rm(join(dataDirectory, "snapshots/cp-1"), { recursive: true });
  assert.deepEqual(await pruned(recentMs), ["image of used"]);
  assert.deepEqual(
    (await readdir(imagesDirectory)).filter((name) => name.startsWith("image-")),
    [],
  );
});

test("the list of images counts the bytes on the disk, once for images, templates and what all share", async (t) => {
  const directories = await cacheFor(t);
  await provideTestWorkspace(directories, 1, 64 * 1024);
  const file = await provideTestImage(directories, "one", 128 * 1024);
  await provideTestImage(directories, "one", 192 * 1024);
  await provideTestTemplate(directories, 2, file, 256 * 1024);
  await provideTestImage(directories, "two", 512 * 1024);
  const { images, sharedBytes } = await usesOfImages(directories);
  // Directories, manifests and the file system's own blocks come on top.
  const isAbout = (bytes: number | undefined, kib: number) =>
    assert.ok(bytes !== undefined && bytes >= kib * 1024 && bytes < (kib + 48) * 1024, `${bytes} for ${kib} KiB`);
  isAbout(images.get("one")?.bytes, 128 + 192);
  isAbout(images.get("one")?.templateBytes, 256);
  isAbout(images.get("two")?.bytes, 512);
  assert.equal(images.get("two")?.templateBytes, 0);
  isAbout(sharedBytes, 64);
  assert.deepEqual(
    [...images.values()].map(({ isInUse }) => isInUse),
    [false, false],
  );
  await link(file, join(directories.dataDirectory, "root.base"));
  const after = (await usesOfImages(directories)).images;
  assert.deepEqual(
    [...after].map(([name, { isInUse }]) => `${name} ${isInUse}`),
    ["one true", "two false"],
  );
});
