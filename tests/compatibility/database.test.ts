import assert from "node:assert/strict";
import { copyFile, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../packages/control-plane/src/clock.ts";
import { openDatabase } from "../../packages/control-plane/src/database/database.ts";
import { CheckpointStore } from "../../packages/control-plane/src/checkpoints/checkpoint-store.ts";
import { PatchStore } from "../../packages/control-plane/src/checkpoints/patch-store.ts";
import { EventStore } from "../../packages/control-plane/src/events/event-store.ts";
import { ImageStore } from "../../packages/control-plane/src/images/image-store.ts";
import { authenticator, defaultOrganizationId } from "../../packages/control-plane/src/organizations/api-keys.ts";
import { PreviewStore } from "../../packages/control-plane/src/previews/preview-store.ts";
import { SandboxStore } from "../../packages/control-plane/src/sandboxes/sandbox-store.ts";
import { releases } from "./releases.ts";

/** The release's own reading of its database, as JSON. */
interface AsRead {
  readonly key: string;
  readonly sandboxes: readonly Fields[];
  readonly checkpoints: readonly Fields[];
  readonly patches: readonly Fields[];
  readonly images: readonly Fields[];
  readonly previews: readonly Fields[];
}

type Fields = Readonly<Record<string, unknown>>;

/** Every field that the release knew keeps its value; fields added later are free. */
function assertKept(found: readonly unknown[], expected: readonly Fields[]): void {
  assert.equal(found.length, expected.length);
  const asJson = JSON.parse(JSON.stringify(found)) as readonly Fields[];
  for (const [at, fields] of expected.entries()) {
    const kept = Object.fromEntries(Object.keys(fields).map((name) => [name, asJson[at]?.[name]]));
    assert.deepEqual(kept, fields);
  }
}

for (const release of releases) {
  test(`the database of ${release.name} opens with every row, and its key is valid`, async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "osb-compatibility-"));
    t.after(() => rm(directory, { recursive: true }));
    const file = join(directory, "opensandbox.sqlite");
    await copyFile(release.file("opensandbox.sqlite"), file);
    const expected = JSON.parse(await readFile(release.file("database-as-read.json"), "utf8")) as AsRead;

    const database = await openDatabase(file);
    t.after(() => database.destroy());

    const clock = { now: () => Date.now(), elapsed: () => performance.now() };
    const authenticate = authenticator({ database, staticKey: undefined, clock, log: () => {} });
    assert.equal((await authenticate(expected.key)).organizationId, defaultOrganizationId);
    const events = new EventStore(database, systemClock);
    const sandboxes = await new SandboxStore(database, events).list(
      defaultOrganizationId,
      ["running", "hibernated"],
      10,
    );
    assertKept(
      sandboxes.toSorted((a, b) => a.id.localeCompare(b.id)),
      expected.sandboxes,
    );
    assertKept(await new CheckpointStore(database, events).list(defaultOrganizationId, 10), expected.checkpoints);
    const [checkpoint] = expected.checkpoints;
    assertKept(await new PatchStore(database).list(String(checkpoint?.["id"])), expected.patches);
    assertKept(await new ImageStore(database).list(defaultOrganizationId), expected.images);
    const [sandbox] = sandboxes.filter(({ state }) => state === "running");
    assert.ok(sandbox);
    assertKept(await new PreviewStore(database, events).list(defaultOrganizationId, sandbox.id), expected.previews);
  });
}
