import { mkdir, open, readdir, readFile, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * A number that names what a machine needs once per host: a network namespace, an address, a user id. Disposing it
 * gives the number back; what was named by it must be gone.
 * Slots belong to the host and not to a data directory, so that two servers never take the same.
 */
export interface Slot extends AsyncDisposable {
  readonly number: number;
}

/** Gone after a reboot of the host, as the namespaces are. */
export const slotsDirectory = "/run/opensandbox/slots";

/** As many as the outer addresses allow: a /16 in blocks of four. */
const slotCount = 16_384;

/**
 * Takes a free slot for the machine that keeps its files in `machineDirectory`, which must exist already: a slot whose
 * directory does not exist is taken for a left-over.
 * @throws `no_capacity` when all are taken
 */
export async function claimSlot(machineDirectory: string): Promise<Slot> {
  await mkdir(slotsDirectory, { recursive: true, mode: 0o700 });
  const taken = new Set(await readdir(slotsDirectory));
  for (let number = 0; number < slotCount; number += 1) {
    if (taken.has(String(number))) continue;
    const file = join(slotsDirectory, String(number));
    try {
      const handle = await open(file, "wx", 0o600);
      await handle.writeFile(machineDirectory);
      await handle.close();
      return slot(number);
    } catch (error) {
      // Another process was faster.
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
  throw new SandboxError("no_capacity", `all ${slotCount} network slots of this host are taken`, {
    needMemoryMib: 0,
    freeMemoryMib: 0,
  });
}

/** Slots whose machine directory is gone: their owner died between removing the one and the other. */
export async function leftOverSlots(): Promise<readonly Slot[]> {
  const left: Slot[] = [];
  for (const name of existsSync(slotsDirectory) ? await readdir(slotsDirectory) : []) {
    const file = join(slotsDirectory, name);
    const owner = await readFile(file, "utf8").catch(() => "");
    // An empty one is being claimed right now.
    if (owner === "" || existsSync(owner)) continue;
    left.push(slot(Number(name)));
  }
  return left;
}

/** Whether any machine of this host holds a slot, beside the one that is about to be released. */
export async function anySlotTaken(options: { readonly except?: number } = {}): Promise<boolean> {
  if (!existsSync(slotsDirectory)) return false;
  return (await readdir(slotsDirectory)).some((name) => Number(name) !== options.except);
}

function slot(number: number): Slot {
  return { number, [Symbol.asyncDispose]: () => rm(join(slotsDirectory, String(number)), { force: true }) };
}
