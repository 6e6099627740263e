import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { Client, FileEntry } from "@opensandbox/sdk";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { copyOut } from "./copy-out.ts";

const never = new AbortController().signal;

type Tree = Readonly<Record<string, readonly Partial<FileEntry>[]>>;

/** A sandbox that lists the files that the test wants. */
function sandboxOf(directories: Tree): Client {
  const client = {
    files: {
      list: async (_id: string, path: string) => {
        const entries = directories[path];
        if (entries === undefined) throw new SandboxError("invalid_argument", `${path} is not a directory`);
        return entries.map((entry) => ({ kind: "file", mode: 0o644, ...entry }));
      },
      stat: async (_id: string, path: string) => ({ kind: directories[path] === undefined ? "file" : "directory" }),
      read: async (_id: string, path: string) => ({ content: [Buffer.from(`content of ${path}`)] }),
    },
    exec: {
      run: async (_id: string, { args = [] }: { args?: readonly string[] }) => ({
        exitCode: 0,
        stdout: args
          .slice(2)
          .map(() => "/etc\0")
          .join(""),
        stderr: "",
      }),
    },
  };
  return client as unknown as Client;
}

async function copyForTest(
  t: TestContext,
  tree: Tree,
  prepare: (target: string) => Promise<void> = async () => undefined,
) {
  const directory = await mkdtemp(join(tmpdir(), "osb-copy-"));
  t.after(() => rm(directory, { recursive: true }));
  const to = join(directory, "to");
  await prepare(to);
  const copied = { files: 0, directories: 0, links: 0, bytes: 0 };
  const context = { client: sandboxOf(tree), copied, note: () => undefined, onProgress: () => undefined };
  const copying = copyOut({ id: "sb-1a2b3c4d", from: "/d/.", to, several: false }, context, never);
  return { directory, to, copied, copying };
}

test("files, directories and links are copied", async (t) => {
  const { to, copied, copying } = await copyForTest(t, {
    "/d/.": [{ name: "a" }, { name: "sub", kind: "directory" }, { name: "l", kind: "symlink" }],
    "/d/sub": [{ name: "b", mode: 0o755 }],
  });
  await copying;
  assert.equal(await readFile(join(to, "sub/b"), "utf8"), "content of /d/sub/b");
  assert.deepEqual((await readdir(to)).toSorted(), ["a", "l", "sub"]);
  assert.deepEqual({ ...copied, bytes: 0 }, { files: 2, directories: 2, links: 1, bytes: 0 });
});

test("a single file is copied by its own attributes, and no directory is listed", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-copy-"));
  t.after(() => rm(directory, { recursive: true }));
  const asked: unknown[] = [];
  const sandbox = sandboxOf({});
  const client = {
    ...sandbox,
    files: {
      ...sandbox.files,
      list: () => assert.fail("a directory is listed"),
      stat: async (...request: readonly unknown[]) => {
        asked.push(request.slice(1, 3));
        return { kind: "file", mode: 0o750 };
      },
    },
  } as unknown as Client;
  const copied = { files: 0, directories: 0, links: 0, bytes: 0 };
  const context = { client, copied, note: () => undefined, onProgress: () => undefined };
  await copyOut({ id: "sb-1a2b3c4d", from: "/usr/bin/tool", to: `${directory}/`, several: false }, context, never);
  assert.equal((await stat(join(directory, "tool"))).mode & 0o777, 0o750 & ~process.umask());
  assert.deepEqual(asked, [["/usr/bin/tool", { follow: true }]], "a symbolic link that the user names is followed");
});

for (const name of ["..", ".", "", "../x", "/etc/x", "a\0b"]) {
  test(`a sandbox that lists the name ${JSON.stringify(name)} writes nothing outside of the target`, async (t) => {
    const { copying, directory } = await copyForTest(t, { "/d/.": [{ name: "ok" }, { name }] });
    await assert.rejects(copying, /impossible file names/);
    assert.deepEqual(await readdir(directory), ["to"]);
  });
}

test("a sandbox cannot create a link and write through it", async (t) => {
  const twice = await copyForTest(t, {
    "/d/.": [
      { name: "x", kind: "symlink" },
      { name: "x", kind: "directory" },
    ],
    "/d/x": [{ name: "passwd" }],
  });
  await assert.rejects(twice.copying, /impossible file names/);
});

test("an existing link below the target is not written through", async (t) => {
  const outside = await mkdtemp(join(tmpdir(), "osb-outside-"));
  t.after(() => rm(outside, { recursive: true }));
  const tree = { "/d/.": [{ name: "x", kind: "directory" as const }], "/d/x": [{ name: "passwd" }] };
  const { copying } = await copyForTest(t, tree, async (to) => {
    await mkdir(to);
    await symlink(outside, join(to, "x"));
  });
  await assert.rejects(copying, /exists on this host and is not a directory/);
  assert.ok(!existsSync(join(outside, "passwd")));

  const file = join(outside, "file");
  await writeFile(file, "before");
  const second = await copyForTest(t, { "/d/.": [{ name: "y" }] }, async (to) => {
    await mkdir(to);
    await symlink(file, join(to, "y"));
  });
  await assert.rejects(second.copying, /exists on this host and is not a regular file/);
  assert.equal(await readFile(file, "utf8"), "before");
});
