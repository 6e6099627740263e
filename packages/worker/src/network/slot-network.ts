import { existsSync, writeFileSync } from "node:fs";
import { inNetworkNamespace } from "#host/libc.ts";
import { runCommand } from "#host/run-command.ts";
import { type SlotNames, slotNames } from "./address-plan.ts";
import { hostCommands, namespaceCommands, namespaceSettings, queueCommands, removalCommands } from "./link-commands.ts";
import { namespaceRules, type NetworkLimits } from "./namespace-rules.ts";

/**
 * Makes the namespace of a slot with its TAP, the way out, its queues and its rules; nothing leaves it yet. What a
 * killed process has left under that number is removed before. After a failure nothing of it is left.
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
  await runCommand("set the rules of a namespace", ["nft", "-f", "-"], {
    input: namespaceRules(limits),
    namespace: namespaceFile,
  });
  undo.move();
}

/** Removes what there is of the networks of slots, whether whole or half made. */
export async function removeSlotNetworks(slots: readonly number[]): Promise<void> {
  const present = slots.map(slotNames).filter(isPresent);
  if (present.length === 0) return;
  try {
    await runCommand("remove network namespaces", ["ip", "-force", "-batch", "-"], {
      input: removalCommands(present),
    });
  } catch (error) {
    // That some of it was not there is no failure; that some of it still is, is one.
    if (present.some(isPresent)) throw error;
  }
}

function isPresent({ hostCable, namespaceFile }: SlotNames): boolean {
  return existsSync(`/sys/class/net/${hostCable}`) || existsSync(namespaceFile);
}

function writeSetting(file: string, value: string): void {
  // A kernel without IPv6 has it closed already.
  if (file.includes("/ipv6/") && !existsSync(file)) return;
  writeFileSync(file, value);
}
