import assert from "node:assert/strict";
import { chmod, mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { readConfig } from "../config.ts";
import { rotateMasterKey, storedMasterKeys } from "./master-keys.ts";

test("the first start makes a master key that only this user can read, and servers that start together share it", async () => {
  const directory = await mkdtemp(join(tmpdir(), "master-key-"));
  try {
    const found = await Promise.all([1, 2, 3].map(() => storedMasterKeys(directory)));
    assert.match(found[0]?.[0] ?? "", /^[0-9a-f]{64}$/);
    for (const keys of found) assert.deepEqual(keys, found[0]);
    assert.equal((await stat(join(directory, "master-key"))).mode & 0o777, 0o600);
    await chmod(join(directory, "master-key"), 0o644);
    await assert.rejects(storedMasterKeys(directory), /can be read by other users/);
  } finally {
    await rm(directory, { recursive: true });
  }
});

test("a rotation puts a new key before the earlier ones, and leaves a key in a setting alone", async () => {
  const directory = await mkdtemp(join(tmpdir(), "master-key-"));
  try {
    const [earlier] = await storedMasterKeys(directory);
    const config = readConfig({ OPENSANDBOX_DATA_DIR: directory });
    const file = await rotateMasterKey(config);
    const [newest, next] = await storedMasterKeys(directory);
    assert.notEqual(newest, earlier);
    assert.equal(next, earlier);
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    const before = await readFile(file, "utf8");
    await assert.rejects(rotateMasterKey({ ...config, masterKeys: ["00".repeat(32)] }), /OPENSANDBOX_MASTER_KEY/);
    assert.equal(await readFile(file, "utf8"), before);
  } finally {
    await rm(directory, { recursive: true });
  }
});

test("a master key is 64 hexadecimal digits or base64, and a wrong one is not repeated in the message", () => {
  const hex = "0123456789abcdef".repeat(4);
  const base64 = Buffer.from(hex, "hex").toString("base64");
  assert.deepEqual(readConfig({ OPENSANDBOX_MASTER_KEY: `${base64}, ${hex}` }).masterKeys, [hex, hex]);
  assert.throws(
    () => readConfig({ OPENSANDBOX_MASTER_KEY: "too-short" }),
    ({ message }: Error) => /64 hexadecimal digits/.test(message) && !message.includes("too-short"),
  );
});
