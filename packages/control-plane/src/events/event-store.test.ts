import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { openDatabase } from "#database/database.ts";
import { eventContract } from "#testing/event-contract.ts";

let directory: string | undefined;
after(() => directory && rm(directory, { recursive: true }));

eventContract("SQLite", async () => {
  directory = await mkdtemp(join(tmpdir(), "osb-events-"));
  const database = await openDatabase(join(directory, "opensandbox.sqlite"));
  // A call of SQLite blocks the process, so a second connection of the same process could wait for the first forever.
  return [database, database, database];
});
