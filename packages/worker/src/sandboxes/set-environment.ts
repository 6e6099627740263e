import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { Host } from "#machine/host.ts";
import { commandEnvironmentOf } from "#machine/introduce-guest.ts";
import { journalMachine } from "#machine/journal.ts";
import type { LiveSandbox } from "./live-sandbox.ts";

/** Deadline for the guest to take the environment, in milliseconds. */
const takeMs = 60_000;

/**
 * Replaces a sandbox's environment, for commands that start from now on and for later starts of its machine.
 * @throws `unavailable` when the guest does not answer: what it has then is unknown until the call is repeated
 */
export async function setEnvironment(
  sandbox: LiveSandbox,
  envs: Readonly<Record<string, string>>,
  host: Host,
): Promise<void> {
  const { live } = sandbox;
  if (live.hasProcess) {
    const environment = commandEnvironmentOf({ envs, secrets: sandbox.request.secrets }, host);
    await live.guest.call(methods.configure, { envs: environment, replaceEnvs: true }, AbortSignal.timeout(takeMs));
  }
  sandbox.request = { ...sandbox.request, envs };
  await journalMachine(live, sandbox.request, host);
}
