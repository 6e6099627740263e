import type { NetworkPolicy } from "@opensandbox/wire/egress.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Host } from "#machine/host.ts";
import type { LiveSandbox } from "./live-sandbox.ts";
import { policyOf, requirePolicy } from "./network-policy.ts";
import { journalMachine } from "#machine/journal.ts";

/** Changes a sandbox's network policy, now and for later starts of its machine. */
export async function setNetworkPolicy(sandbox: LiveSandbox, policy: NetworkPolicy, host: Host): Promise<void> {
  const { live, request } = sandbox;
  requirePolicy(policy, request, host);
  if (live.sandboxNetwork === undefined) {
    if (JSON.stringify(policy) === JSON.stringify(policyOf(request))) return;
    const message = `this host cannot change a network policy: ${host.description.network.reason}`;
    throw new SandboxError("not_supported", message);
  }
  const { egress: _, ...rest } = request;
  const changed = {
    ...rest,
    networkEnabled: policy.enabled,
    ...(policy.egress === undefined ? {} : { egress: policy.egress }),
  };
  await live.sandboxNetwork.setPolicy(policy);
  sandbox.request = changed;
  await journalMachine(live, changed, host);
}
