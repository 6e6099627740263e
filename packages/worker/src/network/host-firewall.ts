import { readFileSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Log } from "#host/log.ts";
import { lockFile } from "#host/file-lock.ts";
import { hasTable, watchRules } from "#host/kernel/netfilter.ts";
import { runCommand } from "#host/run-command.ts";
import { nftFromInput } from "./nft.ts";
import { anySlotTaken, leftOverSlots, removeGoneOwners, slotsDirectory } from "#host/slots.ts";
import { asSandboxError } from "@opensandbox/wire/errors.ts";
import { admitForwarding, withdrawForwarding } from "./foreign-firewalls.ts";
import { hostRules, noHostRules } from "./host-rules.ts";
import { table } from "./namespace-rules.ts";
import { removeSlotNetworks } from "./slot-network.ts";

// A firewall that reloads changes hundreds of rules at once.
const settleMs = 200;

/**
 * Lets guests out through the host, and restores the rules when they disappear: Docker, ufw and administrators reload
 * firewalls at any time. Disposing it ends the watch and leaves the rules.
 */
export async function keepHostNetworkOpen(log: Log): Promise<AsyncDisposable> {
  await openHostNetwork();
  let checking: Promise<void> | undefined;
  let timer: NodeJS.Timeout | undefined;
  const check = (): void => {
    timer = undefined;
    checking = putBack().catch((error: unknown) => {
      log("error", "cannot restore the host's firewall rules: guests may have no network", {
        error: asSandboxError(error).message,
      });
    });
  };
  const watch = watchRules(() => {
    timer ??= setTimeout(check, settleMs).unref();
  });
  return {
    async [Symbol.asyncDispose]() {
      watch[Symbol.dispose]();
      clearTimeout(timer);
      await checking;
    },
  };
}

/** Removes the host's rules, unless a slot on this host is still in use. */
export async function closeHostNetwork(): Promise<void> {
  using _lock = await lockHost();
  if (await anySlotTaken()) return;
  await withdrawForwarding();
  await runCommand("remove the host's rules", nftFromInput, { input: noHostRules });
}

/** Removes the networks of slots whose owner is gone, and the host's rules when no slot is left. */
export async function removeLeftOverNetworks(): Promise<void> {
  const left = await leftOverSlots();
  await removeSlotNetworks(left.map(({ number }) => number));
  for (const slot of left) await slot[Symbol.asyncDispose]();
  await removeGoneOwners();
  await closeHostNetwork();
}

async function openHostNetwork(): Promise<void> {
  using _lock = await lockHost();
  // Forwarding stays on after the worker's end: other programs may rely on it by then.
  const forwarding = "/proc/sys/net/ipv4/ip_forward";
  if (readFileSync(forwarding, "utf8").trim() !== "1") writeFileSync(forwarding, "1");
  await runCommand("set the host's rules", nftFromInput, { input: hostRules() });
  await admitForwarding();
}

async function putBack(): Promise<void> {
  using _lock = await lockHost();
  if (!hasTable({ table })) {
    await runCommand("set the host's rules", nftFromInput, { input: hostRules() });
  }
  await admitForwarding();
}

async function lockHost(): Promise<Disposable> {
  const directory = join(slotsDirectory, "..");
  await mkdir(directory, { recursive: true, mode: 0o700 });
  return await lockFile(join(directory, "network.lock"), { wait: true });
}
