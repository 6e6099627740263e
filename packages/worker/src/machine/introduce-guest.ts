import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { asSandboxError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { ReshapeRequestSchema } from "@opensandbox/wire/guest/messages_pb.js";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { inner, macBytes } from "#network/address-plan.ts";
import type { SandboxSecrets } from "@opensandbox/wire/worker/worker.ts";
import type { GuestHooks } from "#guest/guest-hooks.ts";
import { machineIdOf, macAddressOf } from "#guest/guest-identity.ts";
import type { Host } from "#machine/host.ts";
import type { LiveMachine } from "#machine/live-machine.ts";

/** The identity that a guest takes on. */
export interface GuestIdentity {
  /** Machine id and MAC address are derived from it, so they are the same at every start. */
  readonly id: string;
  /** Absent: the guest keeps its host name. */
  readonly hostname?: string | undefined;
  readonly envs: Readonly<Record<string, string>>;
  /** The guest is a copy: it makes new random seeds and host keys. */
  readonly copied: boolean;
  /** The shape that the guest takes on, too. Absent: it keeps its own. */
  readonly shape?: MessageInitShape<typeof ReshapeRequestSchema> | undefined;
  /** Secrets that the guest uses: it has to trust their authority. */
  readonly secrets?: SandboxSecrets | undefined;
  /** Hooks that the guest runs before it is usable. */
  readonly hooks?: GuestHooks | undefined;
}

/** From this protocol version on an agent takes its identity and a shape by one call. */
const shapingVersion = 4;

/** A restored guest answers within a second, unless its memory comes from a slow disk. */
const minRestoreTimeoutMs = 60_000;
/** How much longer than a restore a boot may take. A host whose boots need more time needs more for restores too. */
const bootsPerRestore = 3;
type IntroducingHost = Pick<Host, "bootTimeoutMs"> & Trusting;
type Trusting = Partial<Pick<Host, "extraAuthorities" | "log">>;

/** How long the end of a process may follow that of its sockets. */
const endMs = 1000;

/**
 * Waits for the guest's agent and gives the guest its identity, and its shape where the agent takes both at once. A
 * machine is usable once the agent has confirmed. Returns whether the guest has taken the shape.
 * @throws with the last lines of the console when the machine ends or the agent does not answer
 */
export async function introduceGuest(
  live: LiveMachine,
  identity: GuestIdentity,
  from: "boot" | "restore",
  { bootTimeoutMs, ...host }: IntroducingHost,
  signal: AbortSignal,
): Promise<boolean> {
  const ended = new AbortController();
  const timeoutMs =
    from === "boot" ? bootTimeoutMs : Math.max(minRestoreTimeoutMs, Math.ceil(bootTimeoutMs / bootsPerRestore));
  const timeout = AbortSignal.timeout(timeoutMs);
  const until = AbortSignal.any([signal, ended.signal, timeout]);
  const exit = live.vm.exited.then((end) => {
    const when = from === "boot" ? "while booting" : "after its restore";
    throw new SandboxError("unavailable", `the machine ${end.reason} ${when}: ${end.detail}`);
  });
  try {
    return await Promise.race([exit, configureOnceConnected(live, identity, host, until)]);
  } catch (error) {
    ended.abort();
    if (signal.aborted) throw error;
    // The agent channel closes before the process is gone, whose end says why.
    const end = exit.catch((reason: unknown) => reason);
    const reason = timeout.aborted ? tooSlow(from, timeoutMs, error) : error;
    throw await withConsole(live, (await Promise.race([end, sleep(endMs)])) ?? reason);
  }
}

/**
 * A guest that finds itself restored resets the connections to its agent, perhaps one that was just made. Every step of
 * the configuration can be repeated.
 */
async function configureOnceConnected(
  live: LiveMachine,
  identity: GuestIdentity,
  host: Trusting,
  signal: AbortSignal,
): Promise<boolean> {
  try {
    return await configure(live, identity, host, signal);
  } catch (error) {
    if (live.vm.agentTransport.endsAt !== "agent" || !isSandboxError(error, "unavailable") || signal.aborted)
      throw error;
    return await configure(live, identity, host, signal);
  }
}

/** From this protocol version on, an agent takes a certificate authority. */
const trustingVersion = 6;

/** Programs that do not use the system's store. */
const trustingEnvironment = {
  NODE_EXTRA_CA_CERTS: "/usr/local/share/ca-certificates/opensandbox.crt",
  REQUESTS_CA_BUNDLE: "/etc/ssl/certs/ca-certificates.crt",
  SSL_CERT_FILE: "/etc/ssl/certs/ca-certificates.crt",
  CURL_CA_BUNDLE: "/etc/ssl/certs/ca-certificates.crt",
};

/** The environment that commands of a guest start with. Variables of the sandbox take precedence. */
export function commandEnvironmentOf(
  { envs, secrets }: Pick<GuestIdentity, "envs" | "secrets">,
  { extraAuthorities }: Pick<Trusting, "extraAuthorities">,
): Record<string, string> {
  const trusts = extraAuthorities !== undefined || secrets?.authority?.certificate !== undefined;
  return { ...(trusts ? trustingEnvironment : {}), ...envs };
}

/**
 * The certificates that a guest trusts besides those of its image; empty: none. Undefined: the guest keeps those it has,
 * since the worker does not know the authority of its secrets.
 */
function authoritiesOf(secrets: SandboxSecrets | undefined, extraAuthorities: string | undefined): string | undefined {
  if (secrets !== undefined && secrets.authority === undefined) return undefined;
  return (extraAuthorities ?? "") + (secrets?.authority?.certificate ?? "");
}

/** A single call: the agent takes the entropy first, and thaws the disks before it writes to them. */
async function configure(
  { guest, sandboxNetwork }: LiveMachine,
  { id, hostname, envs, copied, shape, secrets, hooks }: GuestIdentity,
  { extraAuthorities, log }: Trusting,
  signal: AbortSignal,
): Promise<boolean> {
  const { protocolVersion } = await guest.ready(signal);
  const trusts = protocolVersion >= trustingVersion;
  if (secrets?.authority !== undefined && !trusts) {
    const message =
      "the snapshot has a guest agent of an earlier version, which cannot use secrets: start from an image";
    throw new SandboxError("not_supported", message);
  }
  if (extraAuthorities !== undefined && !trusts) {
    const message = "a guest agent of an earlier version does not take the certificates of OPENSANDBOX_EXTRA_CA";
    log?.("warn", message, { sandbox: id });
  }
  // A copy may have the authority of the sandbox that it was copied from.
  const authority = authoritiesOf(secrets, extraAuthorities) ?? (copied ? "" : undefined);
  // An agent of an older snapshot keeps the address of its device.
  if (protocolVersion < 2) sandboxNetwork?.admit(inner.deviceMac);
  const takesShape = shape !== undefined && protocolVersion >= shapingVersion;
  await guest.call(
    methods.configure,
    {
      ...(hostname === undefined ? {} : { hostname }),
      clockUnixNanos: BigInt(Date.now()) * 1_000_000n,
      entropy: randomBytes(64),
      envs: commandEnvironmentOf({ envs, secrets }, trusts ? { extraAuthorities } : {}),
      replaceEnvs: true,
      thaw: true,
      machineId: machineIdOf(id),
      macAddress: macBytes(macAddressOf(id)),
      newIdentity: copied,
      ...(takesShape ? { shape } : {}),
      ...(authority === undefined ? {} : { authority }),
      ...(hooks === undefined ? {} : { hooks }),
    },
    signal,
  );
  return takesShape;
}

function tooSlow(from: "boot" | "restore", timeoutMs: number, cause: unknown): SandboxError {
  const late = `the guest agent did not answer within ${timeoutMs / 1000} s of the ${from}`;
  return new SandboxError("timed_out", `${late}; on a slow host, raise OPENSANDBOX_BOOT_SECONDS`, { cause });
}

async function withConsole({ vm }: LiveMachine, error: unknown): Promise<SandboxError> {
  const console = await vm.console().catch(() => "");
  const { code, message } = asSandboxError(error);
  const said = console.trim() === "" ? "the console is empty" : `the console ends with:\n${lastLines(console)}`;
  return new SandboxError(code, `${message}; ${said}`, { cause: error });
}

function lastLines(text: string): string {
  return text.trimEnd().split(/\r?\n/).slice(-12).join("\n");
}
