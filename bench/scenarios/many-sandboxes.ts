import { DatabaseSync } from "node:sqlite";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { randomHex } from "@opensandbox/wire/ids.ts";
import type { Bench, Scenario } from "../bench.ts";
import { killed, ranTrue } from "../ours/sandboxes.ts";
import type { OurServer } from "../ours/server.ts";
import { Stopwatch } from "../stopwatch.ts";

const rows = 10_000;
const lists = 20;

/** The list of a server with many sandboxes in its history. */
export const listOfMany: Scenario = {
  figures: ["list-10k"],
  async run(bench, keep) {
    const { server, client } = await bench.ours("fake");
    const sandbox = await client.create();
    await using _ = killed(sandbox);
    bench.report(`list among ${rows} sandboxes`);
    const remove = multiply(server, sandbox.sandboxId);
    try {
      for (let call = 0; call <= lists; call += 1) {
        const watch = new Stopwatch();
        const reply = await client.fetch("GET", "/api/sandboxes?status=hibernated");
        const found = (await reply.json()) as readonly unknown[];
        if (found.length !== 100) throw new Error(`the list has ${found.length} sandboxes instead of 100`);
        keep("list-10k", "ours", call, watch.elapsed);
      }
    } finally {
      remove();
    }
  },
};

/** Inserts copies of a sandbox's row as hibernated sandboxes. Returns the function that removes them. */
function multiply({ dataDirectory }: OurServer, id: string): () => void {
  using database = new DatabaseSync(join(dataDirectory, "opensandbox.sqlite"), { timeout: 10_000 });
  const row = database.prepare("SELECT * FROM sandboxes WHERE id = ?").get(id);
  if (row === undefined) throw new Error(`the database has no sandbox ${id}`);
  const columns = Object.keys(row);
  const insert = database.prepare(
    `INSERT INTO sandboxes (${columns.join(", ")}) VALUES (${columns.map(() => "?").join(", ")})`,
  );
  const alias = "copied by the benchmark";
  database.exec("BEGIN IMMEDIATE");
  for (let index = 0; index < rows; index += 1) {
    const copy = {
      ...row,
      ...{ id: `sb-${randomHex(4)}`, state: "hibernated", worker_id: "", idempotency_key: null, alias },
      created_at: Number(row["created_at"]) + index,
    };
    insert.run(...columns.map((column) => copy[column as keyof typeof copy] ?? null));
  }
  database.exec("COMMIT");
  return () => {
    using again = new DatabaseSync(join(dataDirectory, "opensandbox.sqlite"), { timeout: 10_000 });
    again.prepare("DELETE FROM sandboxes WHERE alias = ?").run(alias);
  };
}

const manySandboxes = { quick: 20, full: 100 };
const idleSeconds = { quick: 3, full: 10 };
/** By then the server has finished its initial work. */
const settleMs = 3000;

/** The idle cost of a server with sandboxes. */
export const idleServer: Scenario = {
  figures: ["cpu-idle-0", "cpu-idle-100", "memory-server"],
  async run(bench, keep) {
    const { server, client } = await bench.ours("fake");
    const size = bench.options.quick ? manySandboxes.quick : manySandboxes.full;
    bench.note("cpu-idle-100", `${size} sandboxes`);
    const before = await idle(bench, server);
    keep("cpu-idle-0", "ours", 1, before.cpuPercent);
    await using ends = new AsyncDisposableStack();
    for (let index = 0; index < size; index += 1) {
      bench.signal.throwIfAborted();
      bench.report(`sandbox ${index + 1} of ${size} for an idle server`);
      const sandbox = await client.create();
      ends.use(killed(sandbox));
      await ranTrue(sandbox);
    }
    const after = await idle(bench, server);
    keep("cpu-idle-100", "ours", 1, after.cpuPercent);
    keep("memory-server", "ours", 1, (after.rssBytes - before.rssBytes) / 1e6 / size);
  },
};

/** The resource use of a server over some seconds without requests. */
export async function idle(bench: Bench, server: OurServer) {
  bench.report("an idle server");
  await sleep(settleMs, undefined, { signal: bench.signal });
  await server.probe();
  const seconds = bench.options.quick ? idleSeconds.quick : idleSeconds.full;
  await sleep(seconds * 1000, undefined, { signal: bench.signal });
  return await server.probe();
}
