import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Database, openDatabase } from "#database/database.ts";
import { defaultOrganizationId, makeDefaultOrganization } from "#organizations/api-keys.ts";
import { createSandbox } from "#sandboxes/create-sandbox.ts";
import { MasterKeys } from "#secrets/master-keys.ts";
import { SecretsOfSandboxes } from "#secrets/sandbox-secrets.ts";
import { SecretRows } from "#secrets/secret-rows.ts";
import { openSandboxes } from "#service/open-sandboxes.ts";
import { onlyWorker } from "#lifecycle/placement.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { ManualClock } from "./manual-clock.ts";
import { TestWorker } from "./test-worker.ts";

export interface TestContext extends AsyncDisposable {
  readonly context: SandboxContext;
  readonly worker: TestWorker;
  readonly organizationId: string;
  readonly database: Database;
  readonly clock: ManualClock;
  create(): Promise<Sandbox>;
}

/** The context of the use cases without HTTP, so that calls arrive in the order in which a test makes them. */
export async function contextForTest(): Promise<TestContext> {
  const worker = new TestWorker();
  const clock = new ManualClock();
  await using undo = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "sandboxes-test-"));
  undo.defer(() => rm(directory, { recursive: true }));
  const database = await openDatabase(join(directory, "control-plane.db"));
  undo.defer(() => database.destroy());
  await makeDefaultOrganization(database, clock.now());
  const ended = new AbortController();
  const context = await openSandboxes({
    worker,
    placement: onlyWorker(worker),
    database,
    clock,
    log: () => {},
    settings: {
      defaults: { vcpus: 1, memoryMib: 1024, workspaceMib: 20_480, idleTimeoutSeconds: 300 },
      limits: { maxSandboxes: 50 },
      ephemeral: false,
    },
    secrets: new SecretsOfSandboxes(new SecretRows(database, new MasterKeys([])), "00".repeat(32)),
    isWorkerAlive: (id) => id === worker.id,
    shutdown: { ending: ended.signal, cutOff: ended.signal },
  });
  undo.defer(async () => {
    ended.abort(new Error("the test has ended"));
    await context.operations.background.idle();
  });
  const owned = undo.move();
  const organizationId = defaultOrganizationId;
  return {
    context,
    worker,
    organizationId,
    database,
    clock,
    create: async () => {
      const request = { image: "default", envs: {}, metadata: {}, alias: "", networkEnabled: true };
      const created = await createSandbox(context, { organizationId, sandbox: request }, () => {}, ended.signal);
      return created.sandbox;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
