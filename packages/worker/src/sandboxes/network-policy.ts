import { type NetworkPolicy, parseEgress } from "@opensandbox/wire/egress.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { parseHeaderRules } from "@opensandbox/wire/header-rules.ts";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { macAddressOf } from "#guest/guest-identity.ts";
import type { Host } from "#machine/host.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import { metadataSource } from "./metadata-source.ts";

export function policyOf({ networkEnabled, egress }: StartSandbox): NetworkPolicy {
  return { enabled: networkEnabled, ...(egress === undefined ? {} : { egress }) };
}

/** @throws `invalid_argument` for malformed rules, `not_supported` for rules that this host cannot enforce */
export function requirePolicy(
  { egress }: NetworkPolicy,
  { secrets }: Pick<StartSandbox, "secrets">,
  { network, description }: Host,
): void {
  if (egress === undefined) return;
  parseEgress(egress);
  parseHeaderRules(egress.headers ?? {});
  if (egress.headers !== undefined && secrets === undefined) {
    throw new SandboxError(
      "invalid_argument",
      "headers: the guest of the sandbox does not trust the proxy's authority",
    );
  }
  if (network.mode === "tap") return;
  const message = `this host cannot enforce egress rules: ${description.network.reason}`;
  throw new SandboxError("not_supported", message);
}

/** @throws `not_supported` when this host cannot put secrets into requests */
export function requireSecrets({ secrets }: Pick<StartSandbox, "secrets">, { network, description }: Host): void {
  if (secrets === undefined || network.mode === "tap") return;
  const message = `this host cannot put secrets into requests: ${description.network.reason}`;
  throw new SandboxError("not_supported", message);
}

/** Applies the sandbox's policy and secrets to its machine, and lets the machine's metadata service answer for the sandbox. */
export async function applyNetworkPolicy(live: LiveMachine, request: StartSandbox, host: Host): Promise<void> {
  const { sandboxNetwork } = live;
  if (sandboxNetwork === undefined) return;
  // An adopted machine is admitted already, perhaps under the address that an earlier version chose.
  if (sandboxNetwork.since === 0) sandboxNetwork.admit(macAddressOf(request.id));
  sandboxNetwork.setSecrets(request.secrets);
  // The policy of an adopted machine is in force too; setting it again would cut its connections.
  const policy = policyOf(request);
  if (JSON.stringify(sandboxNetwork.policy) !== JSON.stringify(policy) || sandboxNetwork.since === 0) {
    await sandboxNetwork.setPolicy(policy);
  }
  sandboxNetwork.identify(metadataSource(live, request, host));
}
