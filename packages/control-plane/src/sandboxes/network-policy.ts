import type { NetworkPolicy } from "@opensandbox/wire/egress.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { NetworkRefusal } from "@opensandbox/wire/worker/worker.ts";
import { elsewhere } from "#lifecycle/elsewhere.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "./sandbox.ts";

export interface SetNetworkPolicy {
  readonly organizationId: string;
  readonly id: SandboxId;
  /** Derives the new policy from the present one. Pure. */
  readonly change: (present: NetworkPolicy) => NetworkPolicy;
}

/**
 * Changes the network policy of a sandbox: at once when it runs, otherwise from its next wake.
 * @throws `not_supported` when this host cannot enforce the policy, `wrong_state` for headers when the guest of the
 * sandbox trusts no proxy
 */
export async function setNetworkPolicy(
  context: SandboxContext,
  { organizationId, id, change }: SetNetworkPolicy,
): Promise<Sandbox> {
  const {
    stores,
    worker,
    placement,
    operations: { gates },
  } = context;
  return gates.run(id, async () => {
    const sandbox = await stores.sandboxes.get(organizationId, id);
    if (sandbox.state === "stopped") {
      throw new SandboxError("gone", `sandbox ${id} is stopped`, { resource: "sandbox", state: "stopped" });
    }
    const policy = change({ enabled: sandbox.networkEnabled, egress: sandbox.egress });
    if (policy.egress?.headers !== undefined && sandbox.authorityId === undefined) {
      const message =
        `sandbox ${id} was created without header rules and without a secret store, so its guest does not trust the ` +
        "proxy that sets headers: create another one with header rules";
      const allowed: string[] = [];
      throw new SandboxError("wrong_state", message, { resource: "sandbox", state: "without an authority", allowed });
    }
    if (sandbox.state === "running") {
      if (!placement.includes(sandbox.workerId)) throw elsewhere(context, sandbox);
      await worker.setNetworkPolicy(id, policy);
    } else if (policy.egress !== undefined && worker.description.network.notEnforced !== undefined) {
      // A policy that cannot be enforced would make the next wake fail.
      const message = `this host cannot enforce egress rules: ${worker.description.network.reason}`;
      throw new SandboxError("not_supported", message);
    }
    return stores.sandboxes.update(id, { networkEnabled: policy.enabled, egress: policy.egress });
  });
}

/** The latest refusals of a sandbox's network. Empty for a sandbox that does not run. */
export async function networkLog(
  { stores, worker, placement }: SandboxContext,
  organizationId: string,
  id: SandboxId,
): Promise<readonly NetworkRefusal[]> {
  const sandbox = await stores.sandboxes.get(organizationId, id);
  return sandbox.state === "running" && placement.includes(sandbox.workerId) ? worker.networkRefusals(id) : [];
}
