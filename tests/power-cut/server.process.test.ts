import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { namesIn } from "../../packages/worker/src/host/storage/names-in.ts";
import { type Api, cutPower, fileSystems, trialTimeout } from "./cut-power.ts";
import type { Facts } from "./cuts.ts";
import { missingForDisks } from "./mounted-disk.ts";

type Fact =
  | { readonly kind: "created" | "deleted"; readonly id: string }
  | { readonly kind: "tagged"; readonly id: string; readonly tags: Readonly<Record<string, string>> };

for (const fileSystem of fileSystems) {
  const skip = missingForDisks(fileSystem.make);
  // The machines are fake: they have rows and journal entries, but no disks.
  const options = { skip, ...trialTimeout };
  test(`on ${fileSystem.name}, a server keeps every sandbox that it has acknowledged`, options, async (t) => {
    await cutPower<Fact>(t, {
      ...{ fileSystem, diskMib: 384, cuts: 6 },
      env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" },
      async work(api, promise) {
        for (let round = 0; round < 3; round += 1) {
          let id = "";
          await promise(async () => {
            id = String((await api.must("POST", "/api/sandboxes", {}))["sandboxID"]);
            return { kind: "created", id };
          });
          const tags = { round: `${round}` };
          await promise(async () => {
            await api.must("PUT", `/api/sandboxes/${id}/tags`, tags);
            return { kind: "tagged", id, tags };
          });
          if (round === 0) continue;
          await promise(async () => {
            await api.must("DELETE", `/api/sandboxes/${id}`);
            return { kind: "deleted", id };
          });
        }
      },
      check: checkServer,
    });
  });
}

/** Uses and deletes every sandbox that the server knows. */
async function checkServer(api: Api, facts: Facts<Fact>, dataDirectory: string): Promise<void> {
  for (const id of new Set([...facts.kept, ...facts.open].map((fact) => fact.id))) await checkSandbox(api, id, facts);
  assert.deepEqual(await (await api.ask("GET", "/api/sandboxes")).json(), []);
  const { sandboxID: fresh } = await api.must("POST", "/api/sandboxes", {});
  await api.must("DELETE", `/api/sandboxes/${String(fresh)}`);
  for (const place of ["machines", "journal"]) {
    const left = (await namesIn(join(dataDirectory, place))).filter((file) => file !== "lock");
    assert.deepEqual(left, [], `something is left in ${place}`);
  }
}

async function checkSandbox(api: Api, id: string, { kept, open }: Facts<Fact>): Promise<void> {
  const is = (facts: readonly Fact[], kind: Fact["kind"]): boolean =>
    facts.some((fact) => fact.id === id && fact.kind === kind);
  const state = await eventually(`${id} can be used, or is gone`, async () => {
    const response = await api.ask("GET", `/api/sandboxes/${id}`);
    const now = response.status === 404 ? "gone" : ((await response.json()) as { status: string }).status;
    return ["running", "hibernated", "error", "stopped", "gone"].includes(now) ? now : undefined;
  });
  const exists = !["stopped", "gone"].includes(state);
  if (is(kept, "deleted")) assert.ok(!exists, `the deleted ${id} is ${state}`);
  else if (is(kept, "created") && !is(open, "deleted")) assert.ok(exists, `the sandbox ${id} is ${state}`);
  if (!exists) return;
  const tagged = kept.find((fact) => fact.id === id && fact.kind === "tagged");
  if (tagged?.kind === "tagged") {
    assert.deepEqual((await api.must("GET", `/api/sandboxes/${id}/tags`))["tags"], tagged.tags);
  }
  // The call boots a machine that has ended.
  const { stdout } = await api.must("POST", `/api/sandboxes/${id}/exec/run`, { cmd: "echo", args: ["used"] });
  assert.equal(stdout, "used\n");
  await api.must("DELETE", `/api/sandboxes/${id}`);
}
