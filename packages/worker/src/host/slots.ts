import { randomBytes } from "node:crypto";
import { closeSync, existsSync, openSync } from "node:fs";
import { link, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { lockFile } from "./file-lock.ts";
import { tryFlock } from "./libc.ts";

/**
 * A number that names what a machine needs once per host: a network namespace, an address, a user id. Disposing it
 * gives the number back; what was named by it must be gone.
 * Slots belong to the host and not to a data directory, so that two servers never take the same.
 */
export interface Slot extends AsyncDisposable {
  readonly number: number;
  /**
   * Gives it to another owner, and keeps `state` with it for whoever reads the slot next. At no moment it has no owner.
   */
  assign(owner: string, state?: string): Promise<void>;
}

/** Gone after a reboot of the host, as the namespaces are. */
export const slotsDirectory = "/run/opensandbox/slots";
const ownersDirectory = "/run/opensandbox/owners";

/** As many as the outer addresses allow: a /16 in blocks of four. */
const slotCount = 16_384;

/** How the name of a file ends whose lock says that its owner lives. */
const ownerSuffix = ".owner";

/** Whom slots belong to that no machine has: this process, as long as it lives. */
export interface SlotOwner extends AsyncDisposable {
  readonly owner: string;
}

export async function becomeSlotOwner(): Promise<SlotOwner> {
  await using undo = new AsyncDisposableStack();
  using _lock = await lockOwners();
  const owner = join(ownersDirectory, `${randomBytes(6).toString("hex")}${ownerSuffix}`);
  undo.defer(() => rm(owner, { force: true }));
  undo.use(await lockFile(owner, { wait: true }));
  const owned = undo.move();
  return { owner, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/**
 * Takes a free slot. Its owner is the directory of a machine, which must exist already, or a {@link SlotOwner}: a slot
 * without one that exists is taken for a left-over.
 * @throws `no_capacity` when all are taken
 */
export async function claimSlot(owner: string): Promise<Slot> {
  await mkdir(slotsDirectory, { recursive: true, mode: 0o700 });
  // The file appears with its content or not at all.
  const temporary = await writeTemporary(owner, "");
  try {
    const taken = new Set(await readdir(slotsDirectory));
    for (let number = 0; number < slotCount; number += 1) {
      if (taken.has(String(number))) continue;
      try {
        await link(temporary, fileOf(number));
        return slotOf(number);
      } catch (error) {
        // Another process was faster.
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
    }
  } finally {
    await rm(temporary, { force: true });
  }
  throw new SandboxError("no_capacity", `all ${slotCount} network slots of this host are taken`, {
    resource: "network slots",
    total: slotCount,
  });
}

/**
 * The slot that `owner` has been given, with what was kept with it, for a process that takes a machine over.
 * @throws `not_found` when it is not that owner's
 */
export async function adoptSlot(
  number: number,
  owner: string,
): Promise<{ readonly slot: Slot; readonly state: string }> {
  const found = await readSlot(number);
  if (found?.owner !== owner) {
    throw new SandboxError("not_found", `network slot ${number} does not belong to ${owner}`, {
      resource: "network",
      id: String(number),
    });
  }
  return { slot: slotOf(number), state: found.state };
}

/** Removes what killed processes have left here beside slots: the files that stood for them, and half written ones. */
export async function removeGoneOwners(): Promise<void> {
  using _lock = await lockOwners();
  for (const name of await namesIn(ownersDirectory)) {
    const file = join(ownersDirectory, name);
    if (name.endsWith(ownerSuffix) && !isAlive(file)) await rm(file, { force: true });
  }
  for (const name of await namesIn(slotsDirectory)) {
    if (!name.startsWith(".")) continue;
    const file = join(slotsDirectory, name);
    const age = Date.now() - ((await stat(file).catch(() => undefined))?.mtimeMs ?? Date.now());
    if (age > halfWrittenMs) await rm(file, { force: true });
  }
}

/** Writing a slot's file takes less than this by far. */
const halfWrittenMs = 60_000;

/** Slots whose owner is gone: it died between removing its own and giving the slot back. */
export async function leftOverSlots(): Promise<readonly Slot[]> {
  const left: Slot[] = [];
  for (const number of await slotNumbers()) {
    const found = await readSlot(number);
    // One that vanishes while it is looked at has just been given back.
    if (found !== undefined && !isAlive(found.owner)) left.push(slotOf(number));
  }
  return left;
}

/** Whether anybody on this host holds a slot, beside the one that is about to be released. */
export async function anySlotTaken(options: { readonly except?: number } = {}): Promise<boolean> {
  return (await slotNumbers()).some((number) => number !== options.except);
}

async function slotNumbers(): Promise<number[]> {
  return (await namesIn(slotsDirectory)).filter((name) => /^\d+$/.test(name)).map(Number);
}

async function namesIn(directory: string): Promise<string[]> {
  return existsSync(directory) ? await readdir(directory) : [];
}

/** Who looks for owners that are gone must not meet one that has not locked its file yet. */
async function lockOwners(): Promise<Disposable> {
  await mkdir(ownersDirectory, { recursive: true, mode: 0o700 });
  return await lockFile(join(ownersDirectory, "lock"), { wait: true });
}

/** The first line of the file is the owner, the rest is the state. */
async function readSlot(number: number): Promise<{ readonly owner: string; readonly state: string } | undefined> {
  const text = await readFile(fileOf(number), "utf8").catch(() => "");
  if (text === "") return undefined;
  const end = text.indexOf("\n");
  return end === -1 ? { owner: text, state: "" } : { owner: text.slice(0, end), state: text.slice(end + 1) };
}

function slotOf(number: number): Slot {
  return {
    number,
    async assign(owner, state = "") {
      await rename(await writeTemporary(owner, state), fileOf(number));
    },
    [Symbol.asyncDispose]: () => rm(fileOf(number), { force: true }),
  };
}

async function writeTemporary(owner: string, state: string): Promise<string> {
  const file = join(slotsDirectory, `.${randomBytes(6).toString("hex")}`);
  await writeFile(file, `${owner}\n${state}`, { mode: 0o600 });
  return file;
}

function isAlive(owner: string): boolean {
  if (!owner.endsWith(ownerSuffix)) return existsSync(owner);
  let fd: number;
  try {
    fd = openSync(owner, "r");
  } catch {
    return false;
  }
  try {
    return !tryFlock(fd);
  } finally {
    closeSync(fd);
  }
}

function fileOf(number: number): string {
  return join(slotsDirectory, String(number));
}
