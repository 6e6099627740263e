import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { test, type TestContext } from "node:test";
import { ContentChecks } from "#host/storage/content-checks.ts";
import type { Log } from "#host/log.ts";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { type ArtifactRequest, artifactsOf, contentRecordOf, provideArtifact, removeArtifact } from "./artifact.ts";

async function imagesDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-images-"));
  t.after(() => rm(directory, { recursive: true }));
  return join(directory, "images");
}

function requestOf(directory: string, more: Partial<ArtifactRequest> = {}): ArtifactRequest {
  return {
    kind: "thing",
    imagesDirectory: directory,
    inputs: 1,
    needMib: 1,
    signal: undefined,
    async build(target) {
      await writeFile(join(target, "data"), "content");
      await writeFile(join(target, "program"), "#!", { mode: 0o755 });
      return { color: "blue" };
    },
    ...more,
  };
}

async function visible(directory: string): Promise<string[]> {
  return (await readdir(directory)).filter((name) => name !== "locks");
}

test("equal inputs are built once, and the files of an artifact are read-only", async (t) => {
  const directory = await imagesDirectory(t);
  let builds = 0;
  const { build } = requestOf(directory);
  const request = requestOf(directory, {
    build: async (target) => {
      builds += 1;
      return await build(target);
    },
  });
  const [first, second] = await Promise.all([provideArtifact(request), provideArtifact(request)]);
  assert.deepEqual(first, second);
  assert.equal(builds, 1);
  assert.deepEqual(first.facts, { color: "blue" });
  assert.equal(first.files["data"]?.bytes, 7);
  const modes = await Promise.all(
    ["data", "program", "manifest.json"].map(async (name) => (await stat(join(first.directory, name))).mode & 0o777),
  );
  assert.deepEqual(modes, [0o444, 0o555, 0o444]);

  const other = await provideArtifact({ ...request, inputs: 2 });
  assert.equal(builds, 2);
  assert.notEqual(other.directory, first.directory);
  assert.equal((await artifactsOf(directory, "thing")).length, 2);
  assert.deepEqual(await artifactsOf(directory, "thin"), []);
});

test("a failed build leaves nothing and reports its own error", async (t) => {
  const directory = await imagesDirectory(t);
  const failure = new SandboxError("unavailable", "mke2fs exited with 1");
  const broken = requestOf(directory, {
    async build(target) {
      await mkdir(join(target, "deep"));
      await writeFile(join(target, "deep/half"), "half");
      throw failure;
    },
  });
  await assert.rejects(provideArtifact(broken), failure);
  assert.deepEqual(await visible(directory), []);
  await provideArtifact(requestOf(directory));
});

test("an aborted build leaves nothing and is canceled", async (t) => {
  const directory = await imagesDirectory(t);
  const abort = new AbortController();
  const request = requestOf(directory, {
    signal: abort.signal,
    async build(target) {
      await writeFile(join(target, "half"), "half");
      abort.abort();
      return {};
    },
  });
  await assert.rejects(provideArtifact(request), (error) => isSandboxError(error, "canceled"));
  assert.deepEqual(await visible(directory), []);
});

test("a build that lacks disk space fails before it writes anything", async (t) => {
  const directory = await imagesDirectory(t);
  await assert.rejects(provideArtifact(requestOf(directory, { needMib: 2 ** 40 })), (error) => {
    assert.ok(isSandboxError(error, "unavailable"));
    assert.match(error.message, /building thing needs \d+ MiB in .+, where \d+ MiB are free: make room there/);
    return true;
  });
  assert.deepEqual(await visible(directory), []);
});

test("a removed artifact is gone, and the next build completes a removal that was cut off", async (t) => {
  const directory = await imagesDirectory(t);
  const artifact = await provideArtifact(requestOf(directory));
  await removeArtifact(artifact);
  assert.deepEqual(await visible(directory), []);
  await mkdir(join(directory, ".removed-thing-0123"));
  await mkdir(join(directory, ".building-other-0123"));
  await provideArtifact(requestOf(directory));
  assert.deepEqual(await visible(directory), [artifact.directory.slice(directory.length + 1)]);
});

test("an artifact whose manifest cannot be read counts as absent, is logged and is built again", async (t) => {
  for (const [damage, content] of [
    ["empty", ""],
    ["torn", '{"kind":"thi'],
    ["not a manifest", "null"],
    ["missing", undefined],
  ] as const) {
    await t.test(damage, async (t) => {
      const directory = await imagesDirectory(t);
      const artifact = await provideArtifact(requestOf(directory));
      const file = join(artifact.directory, "manifest.json");
      await rm(file);
      if (content !== undefined) await writeFile(file, content);
      assert.deepEqual(await artifactsOf(directory, "thing"), []);

      const logged: unknown[] = [];
      const log: Log = (level, message, fields) => logged.push({ level, message, ...fields });
      const again = await provideArtifact(requestOf(directory, { log }));

      assert.equal(again.directory, artifact.directory);
      assert.equal(again.files["data"]?.bytes, 7);
      assert.deepEqual(logged, [
        {
          level: "warn",
          message: "a damaged artifact is built again",
          artifact: basename(artifact.directory),
        },
      ]);
      assert.deepEqual(await visible(directory), [basename(artifact.directory)]);
      assert.deepEqual(await provideArtifact(requestOf(directory)), again);
    });
  }
});

test("an artifact with a damaged or missing file is built again when its files are checked", async (t) => {
  const directory = await imagesDirectory(t);
  const checks = new ContentChecks();
  for (const damage of ["flipped", "missing"] as const) {
    const { directory: artifact } = await provideArtifact(requestOf(directory, { checks }));
    const file = join(artifact, "data");
    await rm(file);
    if (damage === "flipped") await writeFile(file, "CONTENT");
    const logged: string[] = [];
    await provideArtifact(requestOf(directory, { checks, log: (_level, message) => logged.push(message) }));
    assert.equal(await readFile(file, "utf8"), "content");
    assert.deepEqual(logged, ["a damaged artifact is built again"]);
  }
});

test("a file's record is found beside it, and an artifact of an earlier version has none", async (t) => {
  const directory = await imagesDirectory(t);
  const artifact = await provideArtifact(requestOf(directory));
  const file = join(artifact.directory, "data");
  assert.deepEqual(await contentRecordOf(file), artifact.files["data"]?.content);
  assert.equal((await contentRecordOf(file))?.bytes, 7);

  const manifest = join(artifact.directory, "manifest.json");
  const { files: _, directory: __, ...rest } = artifact;
  await rm(manifest);
  await writeFile(manifest, JSON.stringify({ ...rest, files: { data: { bytes: 7, allocatedBytes: 4096 } } }));
  const checks = new ContentChecks();
  assert.equal((await provideArtifact(requestOf(directory, { checks }))).createdAt, artifact.createdAt);
  assert.equal(await contentRecordOf(file), undefined);
  assert.equal(await contentRecordOf(join(directory, "elsewhere", "data")), undefined);
});

test("a manifest that this process may not read is reported, and the artifact stays", async (t) => {
  const directory = await imagesDirectory(t);
  const artifact = await provideArtifact(requestOf(directory));
  const file = join(artifact.directory, "manifest.json");
  await rm(file);
  // Not even root can read a directory as a file.
  await mkdir(file);
  await assert.rejects(provideArtifact(requestOf(directory)), (error) => {
    assert.ok(isSandboxError(error, "unavailable"));
    assert.ok(error.message.includes(artifact.directory));
    return true;
  });
  assert.deepEqual(await visible(directory), [basename(artifact.directory)]);
});

test("an images directory that cannot be made is reported", async (t) => {
  const directory = await imagesDirectory(t);
  await mkdir(directory);
  await writeFile(join(directory, "file"), "");
  await assert.rejects(provideArtifact(requestOf(join(directory, "file/images"))), (error) => {
    assert.ok(isSandboxError(error, "unavailable"));
    assert.match(error.message, /^cannot/);
    return true;
  });
});
