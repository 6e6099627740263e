import { existsSync, writeFileSync } from "node:fs";
import { inNetworkNamespace } from "#host/kernel/libc.ts";
import { runCommand } from "#host/run-command.ts";
import { nftFromInput } from "./nft.ts";
import { type SlotNames, slotNames } from "./address-plan.ts";
import { hostCommands, namespaceCommands, namespaceSettings, queueCommands, removalCommands } from "./link-commands.ts";
import { namespaceRules, type NetworkLimits } from "./namespace-rules.ts";

/**
 * Makes the namespace of a slot with its TAP, cables, queues and rules; nothing leaves it yet. Remains of a killed
 * process under the same number are removed first. A failure leaves nothing.
 */
export async function makeSlotNetwork(slot: number, limits: NetworkLimits): Promise<void> {
  const names = slotNames(slot);
  const { namespace, namespaceFile } = names;
  await removeSlotNetworks([slot]);
  await using undo = new AsyncDisposableStack();
  undo.defer(() => removeSlotNetworks([slot]));
  await runCommand("add network namespace", ["ip", "-batch", "-"], { input: hostCommands([names]) });
  await runCommand("set up network namespace", ["ip", "-n", namespace, "-batch", "-"], {
    input: namespaceCommands(names),
  });
  await runCommand("set the queues of a namespace", ["tc", "-n", namespace, "-batch", "-"], {
    input: queueCommands(limits),
  });
  inNetworkNamespace(namespaceFile, () => {
    for (const [file, value] of namespaceSettings) writeSetting(`/proc/sys/net/${file}`, value);
  });
  await runCommand("set the rules of a namespace", nftFromInput, {
    input: namespaceRules(limits),
    namespace: namespaceFile,
  });
  undo.move();
}

/** Removes the networks of slots, complete or half made. */
export async function removeSlotNetworks(slots: readonly number[]): Promise<void> {
  const present = slots.map(slotNames).filter(isPresent);
  if (present.length === 0) return;
  try {
    await runCommand("remove network namespaces", ["ip", "-force", "-batch", "-"], {
      input: removalCommands(present),
    });
  } catch (error) {
    // Missing parts are not a failure; parts that remain are one.
    if (present.some(isPresent)) throw error;
  }
}

function isPresent({ hostCable, namespaceFile }: SlotNames): boolean {
  return existsSync(`/sys/class/net/${hostCable}`) || existsSync(namespaceFile);
}

function writeSetting(file: string, value: string): void {
  // A kernel without IPv6 has no such file.
  if (file.includes("/ipv6/") && !existsSync(file)) return;
  writeFileSync(file, value);
}
