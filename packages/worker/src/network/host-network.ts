import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { lockFile } from "#host/file-lock.ts";
import { anySlotTaken, leftOverSlots, type Slot, slotsDirectory } from "#host/slots.ts";
import { adoptTap, attachTap, closeHost, detachTap, openHost, type TapAttachment } from "./tap-network.ts";

/**
 * The network of `slot`, and with the first one of the host the host's own rules, which go again with the last one.
 * Disposing it must come before the slot is given back.
 */
export async function joinHostNetwork(slot: Slot, resolver: string): Promise<TapAttachment> {
  await using undo = new AsyncDisposableStack();
  undo.defer(() => closeHostUnlessNeeded(slot));
  {
    using _lock = await lockHost();
    await openHost(resolver);
  }
  const tap = undo.use(await attachTap(slot.number, resolver));
  const owned = undo.move();
  return { ...tap, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** The network of a slot that another process has joined for a machine which this one takes over. */
export async function rejoinHostNetwork(slot: Slot, resolver: string): Promise<TapAttachment> {
  {
    using _lock = await lockHost();
    await openHost(resolver);
  }
  const tap = adoptTap(slot.number);
  return {
    ...tap,
    async [Symbol.asyncDispose]() {
      await tap[Symbol.asyncDispose]();
      await closeHostUnlessNeeded(slot);
    },
  };
}

/** Removes the networks of machines whose worker was killed, and the host's rules when nobody needs them any more. */
export async function removeLeftOverNetworks(): Promise<void> {
  for (const slot of await leftOverSlots()) {
    await detachTap(slot.number);
    await slot[Symbol.asyncDispose]();
  }
  await closeHostUnlessNeeded();
}

/** A slot is claimed before the rules are asked for, so whoever holds the lock sees all who rely on them. */
async function closeHostUnlessNeeded(leaving?: Slot): Promise<void> {
  using _lock = await lockHost();
  if (!(await anySlotTaken(leaving === undefined ? {} : { except: leaving.number }))) await closeHost();
}

async function lockHost(): Promise<Disposable> {
  const directory = join(slotsDirectory, "..");
  await mkdir(directory, { recursive: true, mode: 0o700 });
  return await lockFile(join(directory, "network.lock"), { wait: true });
}
