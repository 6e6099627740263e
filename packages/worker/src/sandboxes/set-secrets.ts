import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxSecrets } from "@opensandbox/wire/worker/worker.ts";
import type { LiveSandbox } from "./live-sandbox.ts";

/**
 * Replaces a sandbox's secrets, now and for later starts of its machine. @throws `wrong_state` for a sandbox that was
 * started without secrets: its guest does not trust their authority
 */
export function setSecrets(sandbox: LiveSandbox, secrets: SandboxSecrets): void {
  const { live, request } = sandbox;
  if (request.secrets === undefined) {
    const message = `${request.id} was started without secrets`;
    throw new SandboxError("wrong_state", message, { resource: "sandbox", state: "without secrets", allowed: [] });
  }
  sandbox.request = { ...request, secrets };
  // The journal has no values, so it does not change.
  if (live.hasProcess) live.sandboxNetwork?.setSecrets(secrets);
}
