import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { chmod, mkdtemp, open, readdir, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { recordContent } from "#host/storage/content-record.ts";
import { DirectoryStore } from "#object-store/directory-store.ts";
import type { ObjectStore } from "#object-store/object-store.ts";
import { manifestOf } from "#snapshots/manifest.ts";
import { SnapshotStore } from "#snapshots/snapshot-store.ts";
import { RemoteSnapshots } from "./remote-snapshots.ts";

const never = new AbortController().signal;
const secret = "a text that the store must not read ";

test("a snapshot that one worker stores is fetched by another, byte for byte, with its modes and its holes", async () => {
  await using world = await makeWorld();
  const [first, second] = [world.host("one"), world.host("two")];
  await first.capture("a");
  await first.remote.upload("a", never);
  let seen = 0;
  await second.remote.fetch("a", (bytes) => (seen = bytes), never);

  const from = await first.snapshots.find("a");
  const to = await second.snapshots.find("a");
  assert.deepEqual(to?.manifest, from?.manifest);
  for (const name of (await readdir(from!.directory)).filter((file) => file !== "manifest.json")) {
    const [source, target] = [join(from!.directory, name), join(to!.directory, name)];
    assert.ok((await readFile(source)).equals(await readFile(target)), name);
    assert.equal((await stat(target)).mode, (await stat(source)).mode, name);
    assert.equal((await stat(target)).gid, (await stat(source)).gid, name);
  }
  const memory = await stat(join(to!.directory, "memory.base"));
  assert.ok(memory.blocks * 512 < memory.size / 2, "the zeros of the memory take no disk");
  assert.ok(seen > 9_000_000 && seen < memory.size, `${seen} bytes were fetched`);
});

test("a second snapshot sends only what changed", async () => {
  await using world = await makeWorld();
  const host = world.host("one");
  await host.capture("a");
  await host.remote.upload("a", never);
  const before = world.written;
  await host.capture("b");
  await host.remote.upload("b", never);
  // The delta and the devices: two chunks, two indexes of files and the snapshot's own.
  assert.equal(world.puts.slice(before).length, 5, world.puts.slice(before).join("\n"));
});

test("a file that a template of the host has is linked and not fetched", async () => {
  await using world = await makeWorld();
  const [first, second] = [world.host("one"), world.host("two")];
  await first.capture("a");
  await first.remote.upload("a", never);
  await second.capture("template", second.templates);
  let seen = 0;
  await second.remote.fetch("a", (bytes) => (seen = bytes), never);
  const [template, fetched] = [second.templates.pathOf("template"), second.snapshots.pathOf("a")];
  assert.equal((await stat(join(fetched, "memory.base"))).ino, (await stat(join(template, "memory.base"))).ino);
  assert.ok(seen < 3_000_000, `${seen} bytes were fetched`);
});

test("an upload that was interrupted continues, and is stored only when it is whole", async () => {
  await using world = await makeWorld();
  const [first, second] = [world.host("one"), world.host("two")];
  await first.capture("a");
  world.failAfterPuts(3);
  await assert.rejects(first.remote.upload("a", never), /no more puts/);
  await assert.rejects(
    second.remote.fetch("a", () => {}, never),
    (error) => isSandboxError(error, "not_found"),
  );
  world.failAfterPuts(undefined);
  const sent = world.puts.filter((key) => key.startsWith("chunks/"));
  const before = world.written;
  await first.remote.upload("a", never);
  const again = world.puts.slice(before).filter((key) => sent.includes(key));
  assert.deepEqual(again, [], "chunks that were stored before are not sent again");
  await second.remote.fetch("a", () => {}, never);
});

test("with a key the store sees neither contents nor their hashes, and another key opens nothing", async () => {
  await using world = await makeWorld();
  const key = randomBytes(32);
  const [first, second] = [world.host("one", key), world.host("two", key)];
  await first.capture("a");
  await first.remote.upload("a", never);
  const names = new Set<string>();
  for await (const object of world.store.list("", never)) {
    names.add(object.key);
    const content = await world.store.get(object.key, { signal: never });
    assert.ok(!content!.includes(secret), object.key);
  }
  const devices = createHash("sha256").update(await readFile(join(first.snapshots.pathOf("a"), "devices")));
  const hash = devices.digest("hex");
  assert.ok(![...names].some((name) => name.includes(hash)));
  await second.remote.fetch("a", () => {}, never);

  for (const other of [world.host("three", randomBytes(32)), world.host("four")]) {
    await assert.rejects(
      other.remote.fetch("a", () => {}, never),
      (error) => isSandboxError(error, "incompatible"),
    );
  }
});

test("without a key the store holds plain contents, which a worker with a key refuses", async () => {
  await using world = await makeWorld();
  const host = world.host("one");
  await host.capture("a");
  await host.remote.upload("a", never);
  const other = world.host("two", randomBytes(32));
  await assert.rejects(
    other.remote.fetch("a", () => {}, never),
    (error) => isSandboxError(error, "incompatible") && /not encrypted although there is a key/.test(error.message),
  );
});

for (const damage of ["a flipped bit", "a short object", "a missing chunk", "another chunk's content"] as const) {
  test(`${damage} in the store is found before the snapshot exists, and nothing of it is left`, async () => {
    await using world = await makeWorld();
    const [first, second] = [world.host("one"), world.host("two")];
    await first.capture("a");
    await first.remote.upload("a", never);
    const chunks: string[] = [];
    for await (const { key } of world.store.list("chunks/", never)) chunks.push(key);
    const [one, two] = chunks;
    const content = await world.store.get(one!, { signal: never });
    if (damage === "a flipped bit") content![content!.length >> 1]! ^= 1;
    const other = await world.store.get(two!, { signal: never });
    if (damage === "a missing chunk") await world.store.delete(one!, never);
    else {
      const cut = damage === "a short object" ? content!.subarray(0, -3) : content!;
      await world.store.put(one!, damage === "another chunk's content" ? other! : cut, never);
    }
    await assert.rejects(
      second.remote.fetch("a", () => {}, never),
      (error) => isSandboxError(error, "incompatible") && error.details.reason === "damaged",
    );
    assert.equal(await second.snapshots.find("a"), undefined);
    assert.deepEqual(await readdir(second.directory), ["snapshots"]);
    assert.deepEqual(await readdir(join(second.directory, "snapshots")), []);

    // The worker that still has the files repairs the store with its next upload of a file that has no index yet.
    for await (const { key } of world.store.list("files/", never)) await world.store.delete(key, never);
    await first.remote.upload("a", never);
    await second.remote.fetch("a", () => {}, never);
  });
}

test("concurrent callers share one fetch, which continues when one of them gives up", async () => {
  await using world = await makeWorld();
  const [first, second] = [world.host("one"), world.host("two")];
  await first.capture("a");
  await first.remote.upload("a", never);
  const giveUp = new AbortController();
  const left = second.remote.fetch("a", () => giveUp.abort(new Error("enough")), giveUp.signal);
  const before = world.gets;
  await Promise.all([
    assert.rejects(left, /enough/),
    second.remote.fetch("a", () => {}, never),
    second.remote.fetch("a", () => {}, never),
  ]);
  const objects = new Set<string>();
  for await (const { key } of world.store.list("", never)) objects.add(key);
  assert.ok(world.gets - before <= objects.size, "each object was read once");
  assert.notEqual(await second.snapshots.find("a"), undefined);
});

test("a snapshot whose files have changed is not stored", async () => {
  await using world = await makeWorld();
  const host = world.host("one");
  const directory = await host.capture("a");
  await chmod(join(directory, "memory.delta"), 0o600);
  await writeFile(join(directory, "memory.delta"), "something else");
  await assert.rejects(host.remote.upload("a", never), (error) => isSandboxError(error, "incompatible"));
  assert.equal(world.puts.length, 0);
});

test("a stored snapshot that is removed is not found", async () => {
  await using world = await makeWorld();
  const host = world.host("one");
  await host.capture("a");
  await host.remote.upload("a", never);
  await host.remote.remove("a", never);
  await host.remote.remove("a", never);
  const other = world.host("two");
  await assert.rejects(
    other.remote.fetch("a", () => {}, never),
    (error) => isSandboxError(error, "not_found"),
  );
});

test("a sweep removes what no stored snapshot names, and nothing else", async () => {
  await using world = await makeWorld();
  const [first, second] = [world.host("one"), world.host("two")];
  for (const id of ["a", "b"]) {
    await first.capture(id);
    await first.remote.upload(id, never);
  }
  await first.remote.remove("a", never);
  assert.deepEqual(await first.remote.sweep(never), { objects: 0, bytes: 0 }, "young objects stay");
  await world.age(15);
  const swept = await first.remote.sweep(never);
  // The delta and the devices of the first: an index and a chunk each.
  assert.equal(swept.objects, 4);
  assert.ok(swept.bytes > 2_000_000, `${swept.bytes} bytes`);
  assert.deepEqual(await first.remote.sweep(never), { objects: 0, bytes: 0 });
  await second.remote.fetch("b", () => {}, never);
  await first.remote.remove("b", never);
  await first.remote.sweep(never);
  const left: string[] = [];
  for await (const { key } of world.store.list("", never)) left.push(key);
  assert.deepEqual(left, []);
});

test("an upload writes old objects again, so that no sweep takes them from it", async () => {
  await using world = await makeWorld();
  const host = world.host("one");
  await host.capture("a");
  await host.remote.upload("a", never);
  await host.remote.remove("a", never);
  await world.age(8);
  await host.capture("b");
  await host.remote.upload("b", never);
  const index = await world.store.get("snapshots/b", { signal: never });
  await world.store.delete("snapshots/b", never);
  await world.age(7);
  // A sweep that began before the index was written does not see it.
  await host.remote.sweep(never);
  await world.store.put("snapshots/b", index!, never);
  await world.host("two").remote.fetch("b", () => {}, never);
});

test("a sweep that cannot read an index removes nothing", async () => {
  await using world = await makeWorld();
  const host = world.host("one", randomBytes(32));
  await host.capture("a");
  await host.remote.upload("a", never);
  await host.remote.remove("a", never);
  await host.capture("b");
  await host.remote.upload("b", never);
  await world.age(15);
  const stranger = world.host("two", randomBytes(32));
  await assert.rejects(stranger.remote.sweep(never), (error) => isSandboxError(error, "incompatible"));
  await host.remote.sweep(never);
  await world.host("three", host.key).remote.fetch("b", () => {}, never);
});

interface TestHost {
  readonly directory: string;
  readonly snapshots: SnapshotStore;
  readonly templates: SnapshotStore;
  readonly remote: RemoteSnapshots;
  readonly key: Buffer | undefined;
  /** Makes a snapshot over the base that all have, with a delta and devices of its own. Returns its directory. */
  capture(id: string, store?: SnapshotStore): Promise<string>;
}

async function makeWorld() {
  await using undo = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "osb-remote-"));
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  const store = undo.use(await DirectoryStore.open(join(directory, "store")));
  const puts: string[] = [];
  let gets = 0;
  let putsLeft: number | undefined;
  const counting: ObjectStore = {
    location: store.location,
    put: async (key, content, signal) => {
      if (putsLeft !== undefined && putsLeft-- <= 0) throw new SandboxError("unavailable", "no more puts");
      await store.put(key, content, signal);
      puts.push(key);
    },
    get: async (key, options) => {
      gets += 1;
      return await store.get(key, options);
    },
    head: (key, signal) => store.head(key, signal),
    delete: (key, signal) => store.delete(key, signal),
    list: (prefix, signal) => store.list(prefix, signal),
    [Symbol.dispose]: () => {},
  };
  // 64 MiB, of which 9 hold something.
  const base = {
    size: 64 * 2 ** 20,
    parts: [0, 20, 63].map((mib) => [mib * 2 ** 20, randomBytes(3 * 2 ** 18)] as const),
  };
  const big = randomBytes(7 * 2 ** 20);
  const host = (name: string, key?: Buffer): TestHost => {
    const home = join(directory, name);
    const snapshots = new SnapshotStore(join(home, "snapshots"));
    const templates = new SnapshotStore(join(home, "templates"), { passable: true });
    const memory = {
      hash: async (path: string) => {
        const content = await readFile(path);
        return { bytes: content.length, sha256: createHash("sha256").update(content).digest("hex") };
      },
      verifyChunks: () => Promise.reject(new Error("no delta of these tests is chunked")),
    };
    const options = { store: counting, key, workerId: "w-1", snapshots, templates, memory };
    return {
      directory: home,
      snapshots,
      templates,
      key,
      remote: new RemoteSnapshots({ ...options, verifier: { verify: () => Promise.resolve() } }),
      async capture(id, into = snapshots) {
        await using unfinished = await into.createUnfinished(id, "w-1");
        const at = (file: string): string => join(unfinished.directory, file);
        {
          await using file = await open(at("memory.base"), "wx");
          await file.truncate(base.size);
          for (const [offset, content] of base.parts) await file.write(content, 0, content.length, offset);
        }
        await writeFile(at("rootfs.base"), big);
        await writeFile(at("devices"), `${secret}${id}`);
        await writeFile(at("memory.delta"), Buffer.concat([Buffer.from(secret), randomBytes(2_000_000)]));
        for (const file of ["memory.base", "rootfs.base"]) await chmod(at(file), 0o444);
        for (const file of ["devices", "memory.delta"]) await chmod(at(file), 0o440);
        const contents = await Promise.all(
          ["memory.base", "rootfs.base"].map(async (file) => {
            await using handle = await open(at(file));
            return { file, ...(await recordContent(handle)) };
          }),
        );
        const own = async (file: string) => ({ file, ...(await memory.hash(at(file))) });
        const { directory: published } = await unfinished.publish(
          manifestOf(
            {
              id,
              image: "minimal",
              shape: { vcpus: 1, memoryMib: 64, workspaceMib: 1 },
              network: "none",
              hypervisor: { name: "qemu", version: "10" },
            },
            {
              files: {
                ...{ kernel: "rootfs.base", initramfs: "rootfs.base", memoryBase: "memory.base", contents },
                disks: [{ name: "rootfs", base: "rootfs.base", layers: [], writable: true }],
              },
              memory: { compatibility: "c", devices: await own("devices"), delta: await own("memory.delta") },
              ownBytes: 1,
            },
          ),
        );
        return published;
      },
    };
  };
  const owned = undo.move();
  return {
    store,
    puts,
    host,
    get written() {
      return puts.length;
    },
    get gets() {
      return gets;
    },
    /** Makes every object older. */
    async age(days: number): Promise<void> {
      for (const entry of await readdir(join(directory, "store"), { recursive: true, withFileTypes: true })) {
        if (!entry.isFile()) continue;
        const path = join(entry.parentPath, entry.name);
        const { mtime } = await stat(path);
        const earlier = new Date(mtime.getTime() - days * 86_400_000);
        await utimes(path, earlier, earlier);
      }
    },
    failAfterPuts(count: number | undefined) {
      putsLeft = count;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
