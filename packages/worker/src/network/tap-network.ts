import { existsSync, writeFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { inNetworkNamespace, openTap } from "#host/libc.ts";
import { runCommand } from "#host/run-command.ts";
import {
  hostCommands,
  hostRules,
  hostTable,
  namespaceCommands,
  namespaceRules,
  type SlotNames,
  slotNames,
} from "./tap-commands.ts";

/** A machine's network as its hypervisor takes it. Disposing it removes all of it. */
export interface TapAttachment extends AsyncDisposable {
  readonly kind: "tap";
  readonly namespace: string;
  /** Opens the TAP; must be called in the namespace. The device lasts as long as the descriptor. */
  openTap(): number;
}

/** Makes the namespace of `slot`, its TAP and the way out. After a failure nothing of it is left. */
export async function attachTap(slot: number, resolver: string): Promise<TapAttachment> {
  const names = slotNames(slot);
  await using undo = new AsyncDisposableStack();
  undo.defer(() => detachTap(slot));
  const { namespace } = names;
  await runCommand("add network namespace", ["ip", "netns", "add", namespace]);
  await runCommand("connect network namespace", ["ip", "-batch", "-"], { input: hostCommands(names) });
  await runCommand("set up network namespace", ["ip", "-n", namespace, "-batch", "-"], {
    input: namespaceCommands(names),
  });
  const file = namespaceFile(names);
  inNetworkNamespace(file, () => writeFileSync("/proc/sys/net/ipv4/ip_forward", "1"));
  await runCommand("set the rules of the network namespace", ["ip", "netns", "exec", namespace, "nft", "-f", "-"], {
    input: namespaceRules(resolver),
  });
  const owned = undo.move();
  return {
    kind: "tap",
    namespace: file,
    openTap: () => openTap("tap0"),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The network of a slot that is there already. */
export function adoptTap(slot: number): TapAttachment {
  return {
    kind: "tap",
    namespace: namespaceFile(slotNames(slot)),
    openTap: () => openTap("tap0"),
    [Symbol.asyncDispose]: () => detachTap(slot),
  };
}

/** Removes what there is of a slot's network, whether whole or half made. */
export async function detachTap(slot: number): Promise<void> {
  const names = slotNames(slot);
  // The cable goes with the namespace, but only when the last process in it has ended.
  if (existsSync(`/sys/class/net/${names.hostCable}`)) {
    await runCommand("remove cable", ["ip", "link", "del", names.hostCable]);
  }
  if (existsSync(namespaceFile(names))) {
    await runCommand("remove network namespace", ["ip", "netns", "del", names.namespace]);
  }
}

/** Lets guests out through the host. May be called again at any time. */
export async function openHost(resolver: string): Promise<void> {
  const forwarding = "/proc/sys/net/ipv4/ip_forward";
  if ((await readFile(forwarding, "utf8")).trim() !== "1") await writeFile(forwarding, "1");
  await runCommand("set the host's rules", ["nft", "-f", "-"], { input: hostRules(resolver) });
}

/** Takes our table away again. */
export async function closeHost(): Promise<void> {
  const [family, table] = hostTable.split(" ") as [string, string];
  // Naming it first makes removing what is not there no error.
  await runCommand("remove the host's rules", ["nft", "-f", "-"], {
    input: `table ${family} ${table}\ndelete table ${family} ${table}\n`,
  });
}

function namespaceFile({ namespace }: SlotNames): string {
  return `/run/netns/${namespace}`;
}
