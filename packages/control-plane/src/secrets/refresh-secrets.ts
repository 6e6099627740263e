import { asSandboxError, describeError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";

/** How many running sandboxes have the present secrets, and why others do not. */
export interface Refreshed {
  readonly refreshed: number;
  readonly errors: readonly string[];
}

/**
 * Gives the present secrets of a store to the sandboxes that use it. One that is starting gets them after its start, in
 * the background.
 */
export async function refreshSecrets(
  context: SandboxContext,
  organizationId: string,
  storeId: string,
): Promise<Refreshed> {
  const { stores, operations } = context;
  const users = (await stores.sandboxes.listUsingSecrets(organizationId)).filter(({ secretStores }) =>
    secretStores?.includes(storeId),
  );
  for (const { id, state } of users) {
    if (state === "running") continue;
    operations.background.run("giving new secrets to a sandbox", { sandbox: id }, async () => {
      await operations.gates.run(id, () => provideSecrets(context, id));
    });
  }
  const running = users.filter(({ state }) => state === "running");
  const results = await Promise.all(
    running.map(async ({ id }) => {
      try {
        await operations.gates.run(id, () => provideSecrets(context, id));
        return undefined;
      } catch (error) {
        context.log("warn", "a sandbox did not get new secrets", { sandbox: id, ...describeError(error) });
        return `${id}: ${asSandboxError(error).message}`;
      }
    }),
  );
  const errors = results.filter((result) => result !== undefined);
  return { refreshed: running.length - errors.length, errors };
}

/** Gives a running sandbox its present secrets. Its gate must be held. A sandbox that does not run gets them when it starts. */
export async function provideSecrets(
  { stores, secrets, worker, placement }: SandboxContext,
  id: SandboxId,
): Promise<void> {
  const sandbox = await stores.sandboxes.find(id);
  if (sandbox?.state !== "running" || !placement.includes(sandbox.workerId)) return;
  const present = await secrets.of(sandbox);
  if (present !== undefined) await worker.setSecrets(id, present);
}
