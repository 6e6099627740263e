import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { elsewhere } from "#lifecycle/elsewhere.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { sealedEnvironment } from "#secrets/sandbox-secrets.ts";

export interface ChangeEnvironment {
  readonly organizationId: string;
  readonly id: SandboxId;
  /** Values by name; null removes the variable. Others stay. */
  readonly changes: Readonly<Record<string, string | null>>;
}

/**
 * Changes the environment of a sandbox: for commands that start from now on when it runs, otherwise from its next wake.
 */
export async function changeEnvironment(
  context: SandboxContext,
  { organizationId, id, changes }: ChangeEnvironment,
): Promise<Sandbox> {
  const { stores, worker, placement, secrets, operations } = context;
  return operations.gates.run(id, async () => {
    const sandbox = await stores.sandboxes.get(organizationId, id);
    if (sandbox.state === "stopped") {
      throw new SandboxError("gone", `sandbox ${id} is stopped`, { resource: "sandbox", state: "stopped" });
    }
    const entries = Object.entries({ ...sandbox.envs, ...changes });
    const envs = Object.fromEntries(entries.filter((entry): entry is [string, string] => entry[1] !== null));
    if (sandbox.state === "running") {
      if (!placement.includes(sandbox.workerId)) throw elsewhere(context, sandbox);
      await worker.setEnvironment(id, { ...sealedEnvironment(await secrets.of(sandbox)), ...envs });
    }
    return stores.sandboxes.update(id, { envs });
  });
}
