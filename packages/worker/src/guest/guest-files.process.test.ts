import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  chmod,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile as read,
  readlink,
  rm,
  stat,
  symlink,
  writeFile as write,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { fakeHypervisor } from "#hypervisor/fake/fake-hypervisor.ts";
import type { Vm } from "#hypervisor/hypervisor.ts";
import { GuestClient } from "./guest-client.ts";
import { guestFiles } from "./guest-files.ts";

const never = new AbortController().signal;

// The guest agent's files over its real channel; the machine is a process of this host.
suite("files of a guest agent", () => {
  let directory: string;
  let machine: Vm;
  let guest: GuestClient;
  const files = guestFiles(() => guest);
  /** Where the agent finds what is below /workspace. */
  let home: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-files-"));
    const agent = join(import.meta.dirname, "../../../guest-agent/src/main.ts");
    const hypervisor = fakeHypervisor([process.execPath, "--disable-warning=ExperimentalWarning", agent]);
    const nothing = { kernel: "", initramfs: "", bootArguments: [], disks: [], network: { kind: "none" } } as const;
    machine = await hypervisor.boot(
      { directory, vcpus: 1, memoryMib: 256, hotplugMib: 0, memoryBase: "", ...nothing },
      never,
    );
    guest = await GuestClient.connect(machine.agentTransport);
    home = join(directory, "home");
  });
  after(async () => {
    guest?.[Symbol.dispose]();
    await machine?.[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  async function* pieces(...parts: readonly (Uint8Array | string)[]): AsyncGenerator<Uint8Array> {
    for (const part of parts) yield await Promise.resolve(Buffer.from(part));
  }

  const put = async (path: string, content: string, mode?: number): Promise<number> =>
    await files.write(path, pieces(content), mode === undefined ? {} : { mode }, never);

  async function get(path: string, range = {}): Promise<string> {
    const parts: Uint8Array[] = [];
    for await (const part of (await files.read(path, range, never)).content) parts.push(part);
    return Buffer.concat(parts).toString("latin1");
  }

  const rename = async (from: string, to: string): Promise<unknown> =>
    await guest.call(methods.rename, { from, to }, never);

  const fails = async (what: Promise<unknown>, code: "not_found" | "invalid_argument"): Promise<void> =>
    await assert.rejects(what, (error) => isSandboxError(error, code));

  const leftOvers = async (): Promise<string[]> =>
    (await readdir(home)).filter((name) => name.startsWith(".opensandbox-"));

  test("a symbolic link is followed by reads and writes, and listed as a link", async () => {
    await put("/workspace/links/target", "first");
    await symlink("target", join(home, "links/link"));
    assert.equal(await get("/workspace/links/link"), "first");
    await put("/workspace/links/link", "second");
    assert.equal(await readlink(join(home, "links/link")), "target");
    assert.equal(await read(join(home, "links/target"), "utf8"), "second");
    const link = await files.stat("/workspace/links/link", { noFollow: true }, never);
    assert.deepEqual([link.kind, link.linkTarget], ["symlink", "target"]);
    const followed = await files.stat("/workspace/links/link", {}, never);
    assert.deepEqual([followed.kind, followed.size], ["file", 6]);

    await symlink("new/file", join(home, "links/dangling"));
    await fails(get("/workspace/links/dangling"), "not_found");
    await put("/workspace/links/dangling", "made");
    assert.equal(await read(join(home, "links/new/file"), "utf8"), "made");

    await symlink("circle", join(home, "links/circle"));
    await fails(get("/workspace/links/circle"), "invalid_argument");
    await fails(put("/workspace/links/circle", "x"), "invalid_argument");
    const listed = await files.list("/workspace/links", never);
    assert.deepEqual(
      listed.map(({ name, kind }) => `${name} ${kind}`),
      ["circle symlink", "dangling symlink", "link symlink", "new directory", "target file"],
    );
  });

  test("a mode is set, survives a replacement of the content, and can be changed", async () => {
    await put("/workspace/script", "1", 0o750);
    await put("/workspace/script", "2");
    assert.equal((await files.stat("/workspace/script", {}, never)).mode, 0o750);
    assert.equal((await files.setAttributes("/workspace/script", { mode: 0o4711 }, never)).mode, 0o4711);
    await put("/workspace/plain", "1");
    assert.equal((await stat(join(home, "plain"))).mode & 0o7777, 0o644);
    await fails(files.setAttributes("/workspace/none", { mode: 0o600 }, never), "not_found");
  });

  test("a move is complete: over another file, of a whole directory, to another file system", async () => {
    await put("/workspace/from/a/b", "moved");
    await put("/workspace/over", "old");
    await rename("/workspace/from/a/b", "/workspace/over");
    assert.equal(await get("/workspace/over"), "moved");
    await put("/workspace/from/c", "inside");
    await symlink("c", join(home, "from/link"));
    await chmod(join(home, "from/c"), 0o600);
    await rename("/workspace/from", "/workspace/to/some/where");
    assert.equal(await get("/workspace/to/some/where/c"), "inside");
    const elsewhere = await mkdtemp("/dev/shm/osb-files-");
    try {
      await rename("/workspace/to", `${elsewhere}/to`);
      assert.equal(await read(join(elsewhere, "to/some/where/c"), "utf8"), "inside");
      assert.equal((await stat(join(elsewhere, "to/some/where/c"))).mode & 0o777, 0o600);
      assert.equal(await readlink(join(elsewhere, "to/some/where/link")), "c");
      await fails(files.stat("/workspace/to", {}, never), "not_found");
    } finally {
      await rm(elsewhere, { recursive: true });
    }
    await put("/workspace/full/file", "x");
    await mkdir(join(home, "moving"));
    await fails(rename("/workspace/moving", "/workspace/full"), "invalid_argument");
    await fails(rename("/workspace/full", "/workspace/full/below"), "invalid_argument");
    await fails(rename("/workspace/none", "/workspace/any"), "not_found");
  });

  test("a range is exact, also at the end of the file and beyond", async () => {
    const content = randomBytes(300_000).toString("latin1");
    await write(join(home, "ranges"), content, "latin1");
    for (const [offset, length] of [
      [0, 1],
      [65_535, 2],
      [100_000, 150_000],
      [299_999, 10],
      [300_000, 5],
      [12, 0],
    ] as const) {
      const expected = content.slice(offset, length === 0 ? undefined : offset + length);
      assert.ok((await get("/workspace/ranges", { offset, length })) === expected, `${length} bytes from ${offset}`);
    }
  });

  test("no reader sees a partial write, and a reader of the old file keeps it", async () => {
    await put("/workspace/whole", "old");
    const half = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const writing = files.write(
      "/workspace/whole",
      (async function* () {
        yield Buffer.alloc(1_000_000, "n");
        half.resolve();
        await go.promise;
        yield Buffer.alloc(1_000_000, "n");
      })(),
      {},
      never,
    );
    await half.promise;
    await using reader = await open(join(home, "whole"));
    assert.equal(await get("/workspace/whole"), "old");
    go.resolve();
    assert.equal(await writing, 2_000_000);
    assert.equal(await get("/workspace/whole"), "n".repeat(2_000_000));
    assert.equal(await reader.readFile("utf8"), "old");
    assert.deepEqual(await leftOvers(), []);
  });

  test("concurrent writers leave the complete file of one of them, whatever readers do meanwhile", async () => {
    await put("/workspace/shared", "a".repeat(300_000));
    const isWhole = /^(a{300000}|b{300000}|c{300000}|d{300000})$/;
    const writers = ["a", "b", "c", "d"].map(async (letter) => {
      for (let times = 0; times < 5; times += 1) {
        const part = Buffer.alloc(100_000, letter);
        await files.write("/workspace/shared", pieces(part, part, part), {}, never);
      }
    });
    const over = new AbortController();
    const done = Promise.all(writers).finally(() => over.abort());
    do assert.match(await get("/workspace/shared"), isWhole);
    while (!over.signal.aborted);
    await done;
    assert.match(await get("/workspace/shared"), isWhole);
    assert.deepEqual(await leftOvers(), []);
  });

  test("an upload that breaks off leaves the old file and no remains", async () => {
    await put("/workspace/kept", "before");
    async function* breaking(): AsyncGenerator<Uint8Array> {
      yield Buffer.alloc(500_000, "x");
      await sleep(20);
      throw new Error("the caller has gone");
    }
    for (const path of ["/workspace/kept", "/workspace/never"]) {
      await assert.rejects(files.write(path, breaking(), {}, never), /the caller has gone/);
    }
    for (let tries = 0; tries < 500 && (await leftOvers()).length > 0; tries += 1) await sleep(10);
    assert.deepEqual(await leftOvers(), []);
    assert.equal(await get("/workspace/kept"), "before");
    await fails(files.stat("/workspace/never", {}, never), "not_found");
  });

  test("devices and named pipes are refused or written to, and block nobody", async () => {
    execFileSync("mkfifo", [join(home, "pipe")]);
    await fails(get("/workspace/pipe"), "invalid_argument");
    await fails(put("/workspace/pipe", "nobody reads it"), "invalid_argument");
    await fails(get("/workspace"), "invalid_argument");
    await fails(put("/workspace", "x"), "invalid_argument");
    assert.equal(await put("/dev/null", "gone"), 4);
    assert.match(await get("/proc/self/status"), /^Name:/);
  });

  test("the size of a file is the number of bytes read, whatever the kernel reported before", async () => {
    const path = "/sys/kernel/mm/transparent_hugepage/enabled";
    const { entry, content } = await files.read(path, {}, never);
    const parts: Uint8Array[] = [];
    for await (const part of content) parts.push(part);
    const text = Buffer.concat(parts);
    assert.equal((await stat(path)).size, 4096);
    assert.equal(entry.size, text.length);
    assert.match(text.toString(), /never/);
    assert.equal(await get(path, { offset: 2, length: 3 }), text.toString().slice(2, 5));
    assert.equal(await get(path, { offset: 4000 }), "");
  });

  test("a watch reports entries of directories that are created while it runs, at any depth", async () => {
    const ending = new AbortController();
    await put("/workspace/watched/old/file", "x");
    const changes = await files.watch("/workspace/watched", { recursive: true }, ending.signal);
    const reported = new Set<string>();
    const listening = (async () => {
      for await (const batch of changes) for (const { kind, path } of batch) reported.add(`${kind} ${path}`);
    })().catch(() => undefined);
    const isReported = async (...words: readonly string[]): Promise<void> => {
      for (let tries = 0; words.some((word) => !reported.has(word)); tries += 1) {
        assert.ok(tries < 2000, `${words.join(", ")} in ${[...reported].join(", ")}`);
        await sleep(10);
      }
    };
    const at = "/workspace/watched";
    // One command makes all of them: entries that exist before their directory is watched are reported too.
    execFileSync("sh", ["-c", "mkdir -p a/b/c/d && echo x > a/b/c/d/file && echo y > old/new"], {
      cwd: join(home, "watched"),
    });
    await isReported(`created ${at}/a`, `created ${at}/a/b/c/d/file`, `created ${at}/old/new`);
    await write(join(home, "watched/a/b/c/d/file"), "longer");
    await isReported(`changed ${at}/a/b/c/d/file`);
    await rename(`${at}/a/b`, `${at}/moved`);
    await isReported(`removed ${at}/a/b`, `created ${at}/moved/c/d/file`);
    await write(join(home, "watched/moved/c/d/another"), "x");
    await isReported(`created ${at}/moved/c/d/another`, `changed ${at}/moved/c/d/another`);
    assert.ok(!reported.has(`changed ${at}/a/b/c/d/another`), "under its new name alone");
    execFileSync("sh", ["-c", "mkdir -p a/b/c/d && echo x > a/b/c/d/again"], { cwd: join(home, "watched") });
    await isReported(`created ${at}/a/b/c/d/again`);
    await rm(join(home, "watched/moved"), { recursive: true });
    await isReported(`removed ${at}/moved/c/d`, `removed ${at}/moved`);
    ending.abort();
    await listening;
    await fails(files.watch("/workspace/none", { recursive: true }, never), "not_found");
  });

  test("files whose names are not UTF-8 are listed, watched, read, renamed and removed", async () => {
    const odd = Buffer.concat([Buffer.from(`${home}/odd/caf`), Buffer.of(0xe9)]);
    execFileSync("mkdir", [join(home, "odd")]);
    await write(odd, "old");
    const ending = new AbortController();
    const changes = await files.watch("/workspace/odd", { recursive: true }, ending.signal);
    const [entry, ...others] = await files.list("/workspace/odd", never);
    assert.ok(entry !== undefined && others.length === 0);
    assert.equal(await get(entry.path), "old");
    await put(entry.path, "new");
    assert.equal(await read(odd, "utf8"), "new");
    for await (const batch of changes) if (batch.some(({ path }) => path === entry.path)) break;
    ending.abort();
    await rename(entry.path, `${entry.path}/../in/${entry.name}/deep`);
    const [moved] = await files.list(`/workspace/odd/in/${entry.name}`, never);
    assert.equal(moved?.name, "deep");
    assert.deepEqual(await readdir(join(home, "odd/in"), { encoding: "buffer" }), [
      Buffer.concat([Buffer.from("caf"), Buffer.of(0xe9)]),
    ]);
    await guest.call(methods.remove, { path: `/workspace/odd/in/${entry.name}` }, never);
    assert.deepEqual(await readdir(join(home, "odd/in")), []);
  });

  test("a watch covers 12,000 directories", async () => {
    execFileSync("bash", ["-c", "mkdir -p wide && cd wide && mkdir -p {1..120}/{1..100}"], { cwd: home });
    const ending = new AbortController();
    const changes = await files.watch("/workspace/wide", { recursive: true }, ending.signal);
    await write(join(home, "wide/120/100/last"), "x");
    for await (const batch of changes) {
      if (batch.some(({ path }) => path === "/workspace/wide/120/100/last")) break;
    }
    ending.abort();
  });
});
