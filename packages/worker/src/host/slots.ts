import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { link, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { isLocked, lockFile } from "./file-lock.ts";
import { namesIn } from "./storage/names-in.ts";

/**
 * A number that names a machine's resources of which each host has one set: network namespace, address, user id.
 * Disposing it returns the number; the resources must be gone by then. Slots belong to the host, not to a data
 * directory, so two servers never take the same one.
 */
export interface Slot extends AsyncDisposable {
  readonly number: number;
  /** Transfers the slot to another owner and stores `state` with it, in one step: a slot always has an owner. */
  assign(owner: string, state?: string): Promise<void>;
}

/** The directory is lost at a reboot of the host, as the namespaces are. */
export const slotsDirectory = "/run/opensandbox/slots";
const ownersDirectory = "/run/opensandbox/owners";

/** The outer addresses allow this many: a /16 in blocks of four. */
const slotCount = 16_384;

/** Ends the name of a file that a living owner keeps locked. */
const ownerSuffix = ".owner";

/** The owner of slots that no machine has yet: this process, while it lives. */
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
 * Takes a free slot for `owner`, the directory of a machine or a {@link SlotOwner}. The owner must exist already: a slot
 * whose owner is gone counts as left over.
 * @throws `no_capacity` when all slots are taken
 */
export async function claimSlot(owner: string): Promise<Slot> {
  await mkdir(slotsDirectory, { recursive: true, mode: 0o700 });
  // The link makes the file appear together with its content.
  const temporary = await writeTemporary(owner, "");
  try {
    const taken = new Set(await readdir(slotsDirectory));
    for (let number = 0; number < slotCount; number += 1) {
      if (taken.has(String(number))) continue;
      try {
        await link(temporary, fileOf(number));
        return slotOf(number);
      } catch (error) {
        // Another process has taken this slot first.
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
 * The slot of `owner` with its state, for a process that takes over a machine.
 * @throws `not_found` when the slot belongs to another owner
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

/** Removes other leftovers of killed processes: their owner files, and slot files that they did not finish writing. */
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

/** Exceeds by far the time that writing a slot's file takes. */
const halfWrittenMs = 60_000;

/** Slots whose owner died before it returned them. */
export async function leftOverSlots(): Promise<readonly Slot[]> {
  const left: Slot[] = [];
  for (const number of await slotNumbers()) {
    const found = await readSlot(number);
    // A slot that vanishes meanwhile has just been returned.
    if (found !== undefined && !isAlive(found.owner)) left.push(slotOf(number));
  }
  return left;
}

/** Whether any slot of this host is taken, apart from one that is about to be returned. */
export async function anySlotTaken(options: { readonly except?: number } = {}): Promise<boolean> {
  return (await slotNumbers()).some((number) => number !== options.except);
}

async function slotNumbers(): Promise<number[]> {
  return (await namesIn(slotsDirectory)).filter((name) => /^\d+$/.test(name)).map(Number);
}

/** Excludes a search for dead owners while a new owner has not locked its file yet. */
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
  return owner.endsWith(ownerSuffix) ? isLocked(owner) : existsSync(owner);
}

function fileOf(number: number): string {
  return join(slotsDirectory, String(number));
}
