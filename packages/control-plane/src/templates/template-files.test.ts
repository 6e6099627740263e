import assert from "node:assert/strict";
import { mkdtemp, readdir, rm, utimes } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { TemplateFiles } from "./template-files.ts";

const file = { organizationId: "org-a", templateId: "template", hash: "abc" };
const signal = new AbortController().signal;

async function directoryFor(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-template-files-"));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

async function* chunks(...parts: string[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) {
    await Promise.resolve();
    yield Buffer.from(part);
  }
}

test("an upload beyond the organization's limit leaves nothing", async (t) => {
  const directory = await directoryFor(t);
  const files = new TemplateFiles(directory, { maxBytes: 10 });
  await files.write(file, chunks("12345"), signal);
  const second = { ...file, hash: "second" };
  await assert.rejects(files.write(second, chunks("123", "456"), signal), { code: "quota_exceeded" });
  assert.equal(await files.has(second), false);
  assert.deepEqual(await readdir(join(directory, "org-a", "template")), ["abc"]);
  await files.write({ ...second, organizationId: "org-b" }, chunks("1234567890"), signal);
  await files.removeTemplate(file);
  await assert.rejects(files.read(file), { code: "not_found" });
});

test("an upload that breaks off leaves nothing", async (t) => {
  const directory = await directoryFor(t);
  const files = new TemplateFiles(directory);
  async function* broken(): AsyncGenerator<Uint8Array> {
    yield* chunks("123");
    throw new Error("the client has left");
  }
  await assert.rejects(files.write(file, broken(), signal), /the client has left/);
  assert.deepEqual(await readdir(join(directory, "org-a", "template")), []);
});

test("old files are removed, and new ones stay", async (t) => {
  const directory = await directoryFor(t);
  const files = new TemplateFiles(directory);
  await files.write(file, chunks("old"), signal);
  await files.write({ ...file, hash: "fresh" }, chunks("new"), signal);
  const old = new Date(Date.now() - 8 * 86_400_000);
  await utimes(join(directory, "org-a", "template", "abc"), old, old);
  await files.removeOld(Date.now());
  assert.deepEqual([await files.has(file), await files.has({ ...file, hash: "fresh" })], [false, true]);
});
