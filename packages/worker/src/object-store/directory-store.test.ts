import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { openObjectStore } from "./open-object-store.ts";
import { objectStoreContract } from "./testing/object-store-contract.ts";

const never = new AbortController().signal;

objectStoreContract("an object store in a directory", { hasServer: false }, async () => {
  const directory = await mkdtemp(join(tmpdir(), "osb-objects-"));
  return {
    store: await openObjectStore({ url: `file://${directory}/store` }),
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  };
});

test("a file that a killed writer left in a directory is not an object", async () => {
  const directory = await mkdtemp(join(tmpdir(), "osb-objects-"));
  try {
    using store = await openObjectStore({ url: `file://${directory}` });
    await store.put("a/b", Buffer.from("whole"), never);
    await writeFile(join(directory, "a", ".unfinished-0123"), "half");
    const keys: string[] = [];
    for await (const { key } of store.list("", never)) keys.push(key);
    assert.deepEqual(keys, ["a/b"]);
  } finally {
    await rm(directory, { recursive: true });
  }
});

test("a URL of another form is refused with the accepted forms", async () => {
  for (const url of ["", "bucket", "s3:///prefix", "file://", "https://bucket", "azblob://container"]) {
    await assert.rejects(
      openObjectStore({ url }),
      (error) => isSandboxError(error, "invalid_argument") && /azblob:\/\/|AZURE_STORAGE/.test(error.message),
      url,
    );
  }
});
