import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { namesIn } from "../../packages/worker/src/host/storage/names-in.ts";
import { type Api, cutPower, fileSystems, trialTimeout } from "./cut-power.ts";
import type { Facts } from "./cuts.ts";
import { missingForDisks } from "./mounted-disk.ts";

type Fact =
  | { readonly kind: "created" | "hibernated" | "deleted"; readonly id: string }
  /** The file is on the sandbox's disk: the guest has flushed it. */
  | { readonly kind: "wrote"; readonly id: string; readonly file: string }
  | {
      readonly kind: "checkpoint";
      readonly id: string;
      readonly checkpointId: string;
      readonly files: readonly string[];
    }
  | { readonly kind: "image"; readonly id: ""; readonly name: string };

const patience = { withinMs: 300_000, everyMs: 200 };

// ext4 flushes some files by itself, which XFS does not.
const preferred = fileSystems.findLast(({ make }) => missingForDisks(make) === false);
const fileSystem = preferred ?? fileSystems[0];

test(
  "creates, hibernations, checkpoints and images that were acknowledged survive a power cut, with their data",
  { skip: missingForDisks(fileSystem.make), ...trialTimeout },
  async (t) => {
    t.diagnostic(`on ${fileSystem.name}`);
    await cutPower<Fact>(t, {
      ...{ fileSystem, diskMib: 16_384, cuts: 4 },
      env: { OPENSANDBOX_READY_MACHINES: "0" },
      work,
      check: checkMachines,
    });
  },
);

async function work(api: Api, promise: (ask: () => Promise<Fact>) => Promise<void>): Promise<void> {
  let id = "";
  await promise(async () => {
    id = String((await api.must("POST", "/api/sandboxes", { templateID: "minimal" }))["sandboxID"]);
    return { kind: "created", id };
  });
  const write = async (file: string): Promise<void> =>
    await promise(async () => {
      await shell(api, id, `cd /workspace && echo content of ${file} >${file} && sync`);
      return { kind: "wrote", id, file };
    });
  await write("first");
  let checkpointId = "";
  await promise(async () => {
    checkpointId = String((await api.must("POST", `/api/sandboxes/${id}/checkpoints`, { name: "one" }))["id"]);
    await eventually(
      "the checkpoint is ready",
      async () => (await api.must("GET", `/api/sandboxes/${id}/checkpoints/${checkpointId}`))["status"] === "ready",
      patience,
    );
    return { kind: "checkpoint", id, checkpointId, files: ["first"] };
  });
  await promise(async () => {
    await api.must("POST", `/api/sandboxes/${id}/hibernate`);
    return { kind: "hibernated", id };
  });
  // The write wakes it.
  await write("second");
  await promise(async () => {
    const step = { type: "run", args: { commands: ["echo content of third >/workspace/third"] } };
    await api.must("POST", "/api/snapshots", { name: "built", image: { base: "minimal", steps: [step] } });
    return { kind: "image", id: "", name: "built" };
  });
  let fork = "";
  await promise(async () => {
    fork = String((await api.must("POST", `/api/sandboxes/from-checkpoint/${checkpointId}`, {}))["sandboxID"]);
    return { kind: "created", id: fork };
  });
  await promise(async () => {
    await api.must("DELETE", `/api/sandboxes/${fork}`);
    return { kind: "deleted", id: fork };
  });
}

/** Reads every file that must be there, then deletes everything. */
async function checkMachines(api: Api, facts: Facts<Fact>, dataDirectory: string): Promise<void> {
  const { kept, open } = facts;
  for (const id of new Set([...kept, ...open].map((fact) => fact.id)))
    if (id !== "") await checkSandbox(api, id, facts);
  for (const fact of kept) {
    if (fact.kind === "checkpoint") {
      const fork = String(
        (await api.must("POST", `/api/sandboxes/from-checkpoint/${fact.checkpointId}`, {}))["sandboxID"],
      );
      for (const file of fact.files) await requireFile(api, fork, file);
      await api.must("DELETE", `/api/sandboxes/${fork}`);
    } else if (fact.kind === "image") {
      const made = String((await api.must("POST", "/api/sandboxes", { snapshot: fact.name }))["sandboxID"]);
      await requireFile(api, made, "third");
      await api.must("DELETE", `/api/sandboxes/${made}`);
    }
  }
  await deleteRest(api);
  const places = { machines: [], journal: ["lock"], snapshots: [] } satisfies Record<string, string[]>;
  for (const [place, allowed] of Object.entries<string[]>(places)) {
    const left = async (): Promise<readonly string[]> =>
      (await namesIn(join(dataDirectory, place))).filter((name) => !allowed.includes(name));
    await eventually(`${place} is empty`, async () => (await left()).length === 0, {
      withinMs: 60_000,
      everyMs: 200,
    }).catch(async (cause: unknown) => assert.fail(`${String(cause)}: ${(await left()).join()}`));
  }
}

async function checkSandbox(api: Api, id: string, { kept, open }: Facts<Fact>): Promise<void> {
  const is = (facts: readonly Fact[], kind: Fact["kind"]): boolean =>
    facts.some((fact) => fact.id === id && fact.kind === kind);
  const state = await eventually(
    `${id} can be used, or is gone`,
    async () => {
      const response = await api.ask("GET", `/api/sandboxes/${id}`);
      const now = response.status === 404 ? "gone" : ((await response.json()) as { status: string }).status;
      return ["running", "hibernated", "error", "stopped", "gone"].includes(now) ? now : undefined;
    },
    patience,
  );
  const exists = !["stopped", "gone"].includes(state);
  if (is(kept, "deleted")) assert.ok(!exists, `the deleted ${id} is ${state}`);
  else if (is(kept, "created") && !is(open, "deleted")) assert.ok(exists, `the sandbox ${id} is ${state}`);
  if (!exists) return;
  // The first call wakes it, or boots its disks.
  for (const fact of kept) if (fact.kind === "wrote" && fact.id === id) await requireFile(api, id, fact.file);
  await api.must("DELETE", `/api/sandboxes/${id}`);
}

/** Checkpoints outlive their sandbox, and images their checkpoint. */
async function deleteRest(api: Api): Promise<void> {
  const images = (await api.must("GET", "/api/snapshots")) as unknown as readonly { readonly name: string }[];
  for (const { name } of images) await api.must("DELETE", `/api/snapshots/${name}`);
  const checkpoints = (await api.must("GET", "/api/checkpoints")) as unknown as readonly {
    readonly id: string;
    readonly sandboxId: string;
    readonly status: string;
  }[];
  for (const { id, sandboxId } of checkpoints) {
    const response = await api.ask("DELETE", `/api/sandboxes/${sandboxId}/checkpoints/${id}`);
    assert.ok(response.ok || response.status === 404, `checkpoint ${id}: ${response.status}`);
  }
}

async function requireFile(api: Api, id: string, file: string): Promise<void> {
  assert.equal(await shell(api, id, `cat /workspace/${file}`), `content of ${file}\n`);
}

/** Runs a command that must succeed. Returns its standard output. */
async function shell(api: Api, id: string, line: string): Promise<string> {
  const run = { cmd: "sh", args: ["-c", line], timeout: 120 };
  const { stdout, stderr, exitCode } = await api.must("POST", `/api/sandboxes/${id}/exec/run`, run);
  assert.equal(exitCode, 0, `${line}: ${String(stdout)}${String(stderr)}`);
  return String(stdout);
}
