import assert from "node:assert/strict";
import { chmod, mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { newSandboxId } from "@opensandbox/wire/ids.ts";
import { openWorker } from "@opensandbox/worker";
import { readConfig } from "./config.ts";
import { startServer } from "./start-server.ts";
import { workerOptions } from "./worker-options.ts";

test("a server that fails to start leaves the sandboxes that it has adopted to the next one", async (t) => {
  const deadline = AbortSignal.timeout(240_000);
  const directory = await mkdtemp(join(tmpdir(), "osb-start-server-"));
  await chmod(directory, 0o711);
  t.after(() => rm(directory, { recursive: true, force: true }));
  const config = readConfig({
    OPENSANDBOX_VM_BACKEND: "fake",
    OPENSANDBOX_ALLOW_FAKE: "1",
    OPENSANDBOX_DATA_DIR: directory,
    OPENSANDBOX_PORT: "0",
  });
  const open = () => openWorker({ ...workerOptions(config), ephemeral: false, log: () => {} });
  const id = newSandboxId();
  {
    await using first = await open();
    const shape = { vcpus: 1, memoryMib: 512, workspaceMib: 20_480 };
    const request = { organizationId: "org-test", envs: {}, networkEnabled: true, ...shape };
    const from = { kind: "image", image: "minimal" } as const;
    await first.worker.startSandbox({ id, generation: 1, from, ...request }, () => {}, deadline);
    await first.release();
  }

  const databaseFile = join(directory, "opensandbox.sqlite");
  await mkdir(databaseFile);
  await assert.rejects(startServer(config, { embedded: false, onProgress: () => {} }, deadline), /opensandbox\.sqlite/);

  await using next = await open();
  const [held] = await next.worker.listSandboxes();
  assert.equal(held?.id, id);
});
