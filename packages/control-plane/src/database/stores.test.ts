import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { storeContract } from "#testing/store-contract.ts";

const directories: string[] = [];
after(() => Promise.all(directories.map((directory) => rm(directory, { recursive: true }))));

storeContract("SQLite", async () => {
  const directory = await mkdtemp(join(tmpdir(), "osb-stores-"));
  directories.push(directory);
  return join(directory, "opensandbox.sqlite");
});
