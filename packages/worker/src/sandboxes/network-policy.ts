import { type NetworkPolicy, parseEgress } from "@opensandbox/wire/egress.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { macAddressOf } from "#guest/guest-identity.ts";
import type { Host } from "#machine/host.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import { metadataSource } from "./metadata-source.ts";

export function policyOf({ networkEnabled, egress }: StartSandbox): NetworkPolicy {
  return { enabled: networkEnabled, ...(egress === undefined ? {} : { egress }) };
}

/** @throws `invalid_argument` for rules that are wrong, `not_supported` for those that would not hold on this host */
export function requirePolicy({ egress }: NetworkPolicy, { network, description }: Host): void {
  if (egress === undefined) return;
  parseEgress(egress);
  if (network.mode === "tap") return;
  const message = `rules for what a sandbox may reach do not hold on this host: ${description.network.reason}`;
  throw new SandboxError("not_supported", message);
}

/** Before a machine does anything for its sandbox: holds it to the sandbox's policy, and tells it whose it is. */
export async function applyNetworkPolicy(live: LiveMachine, request: StartSandbox, host: Host): Promise<void> {
  const { sandboxNetwork } = live;
  if (sandboxNetwork === undefined) return;
  // A machine that was taken over is heard already, perhaps under an address of an earlier version's choice.
  if (sandboxNetwork.since === 0) sandboxNetwork.admit(macAddressOf(request.id));
  // It is held to its policy already, too, and setting it again would cut its connections.
  const policy = policyOf(request);
  if (JSON.stringify(sandboxNetwork.policy) !== JSON.stringify(policy) || sandboxNetwork.since === 0) {
    await sandboxNetwork.setPolicy(policy);
  }
  sandboxNetwork.identify(metadataSource(live, request, host));
}
