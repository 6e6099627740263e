import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { makeDurableDirectory } from "./durable-files.ts";
import { ImmutableDirectories } from "./immutable-directories.ts";
import { onDisk, type PowerCut, RecordedFiles } from "#host/testing/power-cut.ts";

const modes = { parent: 0o755, directory: 0o755, manifest: 0o644 };

async function recorded(t: TestContext, options: { readonly forgetful?: boolean } = {}): Promise<RecordedFiles> {
  const root = await mkdtemp(join(tmpdir(), "osb-immutable-"));
  t.after(() => rm(root, { recursive: true }));
  return new RecordedFiles(root, options);
}

function directoriesOf(files: RecordedFiles): ImmutableDirectories {
  return new ImmutableDirectories(join(files.root, "store"), { modes, files, removeTree: files.removeTree });
}

const contents = { base: "the base of a disk", "deep/module": "a kernel module", layer: "added later" };

/** Publishes `one` with two files, and marks that. */
async function publish(files: RecordedFiles): Promise<void> {
  await using unfinished = await directoriesOf(files).createUnfinished("one");
  const { directory } = unfinished;
  await files.write(join(directory, "base"), contents.base);
  await files.makeDirectory(join(directory, "deep"), 0o755);
  await files.write(join(directory, "deep/module"), contents["deep/module"]);
  await unfinished.publish("manifest: base, deep/module");
  files.mark("published");
}

/** What a reader sees of `one`; each file that the manifest names has to be whole. */
async function readAfter({ tree }: PowerCut): Promise<string | undefined> {
  return await onDisk(tree, async (directory) => {
    const store = new ImmutableDirectories(join(directory, "store"), { modes });
    const manifest = await store.readManifest("one");
    if (manifest === "") return manifest;
    const names = manifest?.replace("manifest: ", "").split(", ") ?? [];
    for (const name of names) {
      const content = await readFile(join(store.pathOf("one"), name), "utf8").catch(() => "missing");
      if (content !== contents[name as keyof typeof contents]) return `damaged: ${name}`;
    }
    return manifest;
  });
}

test("whenever the power fails, a directory is there as a whole or not at all, and stays once it is published", async (t) => {
  const files = await recorded(t);
  await publish(files);
  const cuts = files.powerCuts();
  assert.ok(cuts.length > 20, `${cuts.length} states`);
  for (const cut of cuts) {
    const seen = await readAfter(cut);
    const allowed = cut.marks.has("published")
      ? ["manifest: base, deep/module"]
      : [undefined, "manifest: base, deep/module"];
    assert.ok(allowed.includes(seen), `${String(seen)} of ${JSON.stringify(cut.tree)}`);
  }
});

test("whenever the power fails during an amendment, a reader finds the old manifest or the new one with its files", async (t) => {
  const files = await recorded(t);
  await publish(files);
  const store = directoriesOf(files);
  {
    await using other = await store.createUnfinished("one-more");
    await files.write(join(other.directory, "layer"), contents.layer);
    const added = { from: join(other.directory, "layer"), to: "layer" };
    await store.amend("one", "manifest: base, deep/module, layer", added);
    files.mark("amended");
  }
  for (const cut of files.powerCuts().filter(({ marks }) => marks.has("published"))) {
    const seen = await readAfter(cut);
    const after = ["manifest: base, deep/module, layer"];
    const allowed = cut.marks.has("amended") ? after : ["manifest: base, deep/module", ...after];
    assert.ok(allowed.includes(seen ?? ""), `${String(seen)} of ${JSON.stringify(cut.tree)}`);
  }
});

test("whenever the power fails during a removal, the directory is whole or gone", async (t) => {
  const files = await recorded(t);
  await publish(files);
  await directoriesOf(files).remove("one");
  files.mark("removed");
  for (const cut of files.powerCuts().filter(({ marks }) => marks.has("published"))) {
    const seen = await readAfter(cut);
    const allowed = cut.marks.has("removed") ? [undefined] : [undefined, "manifest: base, deep/module"];
    assert.ok(allowed.includes(seen), `${String(seen)} of ${JSON.stringify(cut.tree)}`);
  }
});

test("without its flushes, some power cut leaves a damaged directory", async (t) => {
  const files = await recorded(t, { forgetful: true });
  await publish(files);
  const seen = new Set<string | undefined>();
  for (const cut of files.powerCuts()) seen.add(await readAfter(cut));
  assert.ok(seen.has("damaged: base"), [...seen].join(", "));
  assert.ok(seen.has(""), "an empty manifest");
});

test("missing parents of a durable directory get the default mode, and the directory its own", async (t) => {
  const files = await recorded(t);
  const path = join(files.root, "a", "b", "c");
  await makeDurableDirectory(path, 0o700, files);
  await makeDurableDirectory(path, 0o700, files);
  const modeOf = async (directory: string): Promise<number> => (await stat(directory)).mode & 0o777;
  assert.equal(await modeOf(path), 0o700);
  assert.equal(await modeOf(join(files.root, "a")), 0o777 & ~process.umask());
  files.mark("made");
  for (const { tree } of files.powerCuts().filter(({ marks }) => marks.has("made"))) {
    assert.deepEqual(tree, { a: { b: { c: {} } } });
  }
});
