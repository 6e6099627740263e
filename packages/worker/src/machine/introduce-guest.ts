import { randomBytes } from "node:crypto";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { inner, macBytes } from "#network/address-plan.ts";
import { machineIdOf, macAddressOf } from "#guest/guest-identity.ts";
import type { LiveMachine } from "#machine/live-machine.ts";

/** Who a guest is told to be. */
export interface GuestIdentity {
  /** Also what its machine id and its MAC address are derived from: they stay the same however often it is started. */
  readonly id: string;
  /** Absent: it keeps the one that it has. */
  readonly hostname?: string | undefined;
  readonly envs: Readonly<Record<string, string>>;
  /** It is a copy: what is random and kept in files is made anew. */
  readonly copied: boolean;
}

/** Emulation boots in 5 to 10 s when it has a core to itself, and shares cores in a burst. */
const bootTimeoutMs = 180_000;
/** A restored guest answers within a second unless its memory has to be read from a slow disk. */
const restoreTimeoutMs = 60_000;

/**
 * Waits for the agent of a guest that runs and tells it who it is. Nobody gets a machine before it has confirmed that;
 * when it does not, the error ends with the console's last words.
 */
export async function introduceGuest(
  live: LiveMachine,
  identity: GuestIdentity,
  from: "boot" | "restore",
  signal: AbortSignal,
): Promise<void> {
  const ended = new AbortController();
  const timeout = AbortSignal.timeout(from === "boot" ? bootTimeoutMs : restoreTimeoutMs);
  const until = AbortSignal.any([signal, ended.signal, timeout]);
  const exit = live.vm.exited.then((end) => {
    const when = from === "boot" ? "while it was booting" : "after it was restored";
    throw new SandboxError("unavailable", `the machine ${end.reason} ${when}: ${end.detail}`);
  });
  try {
    await Promise.race([exit, configure(live, identity, until)]);
  } catch (error) {
    ended.abort();
    if (signal.aborted) throw error;
    throw await withConsole(live, error);
  }
}

/** One call, in which the agent takes the entropy first and thaws its disks before it writes to them. */
async function configure(
  { guest, sandboxNetwork }: LiveMachine,
  { id, hostname, envs, copied }: GuestIdentity,
  signal: AbortSignal,
): Promise<void> {
  const { protocolVersion } = await guest.ready(signal);
  // One from an older snapshot keeps the address that its device came with.
  if (protocolVersion < 2) sandboxNetwork?.admit(inner.deviceMac);
  await guest.call(
    methods.configure,
    {
      ...(hostname === undefined ? {} : { hostname }),
      clockUnixNanos: BigInt(Date.now()) * 1_000_000n,
      entropy: randomBytes(64),
      envs: { ...envs },
      replaceEnvs: true,
      thaw: true,
      machineId: machineIdOf(id),
      macAddress: macBytes(macAddressOf(id)),
      newIdentity: copied,
    },
    signal,
  );
}

async function withConsole({ vm }: LiveMachine, error: unknown): Promise<SandboxError> {
  const console = await vm.console().catch(() => "");
  const { code, message } = asSandboxError(error);
  const said = console.trim() === "" ? "its console is empty" : `its console ends with:\n${lastLines(console)}`;
  return new SandboxError(code, `${message}; ${said}`, { cause: error });
}

function lastLines(text: string): string {
  return text.trimEnd().split(/\r?\n/).slice(-12).join("\n");
}
