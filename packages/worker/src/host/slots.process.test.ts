import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { adoptSlot, claimSlot, leftOverSlots } from "./slots.ts";
import { startHolder } from "./testing/holder.ts";

const skip = process.getuid?.() === 0 ? false : "only root can take slots";

/** A directory that exists, as the owner of slots. */
async function newOwner(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-slots-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

async function giveBack(numbers: readonly number[]): Promise<void> {
  for (const slot of await leftOverSlots()) if (numbers.includes(slot.number)) await slot[Symbol.asyncDispose]();
}

test(
  "processes that claim at the same time get different slots, and slots of a removed owner are found",
  { skip },
  async (t) => {
    const owner = await newOwner(t);
    const holders = await Promise.all([1, 2, 3].map(() => startHolder("slots", owner, "8")));
    const numbers = holders.flatMap(({ said }) => said.split(" ").map(Number));
    assert.equal(new Set(numbers).size, 24);
    for (const holder of holders) await holder.kill();

    const leftOver = async () => (await leftOverSlots()).filter(({ number }) => numbers.includes(number)).length;
    assert.equal(await leftOver(), 0, "the machines of a killed process keep their slots");
    await rm(owner, { recursive: true });
    assert.equal(await leftOver(), 24);
    await giveBack(numbers);
    assert.equal(await leftOver(), 0);
  },
);

test("a slot passes to another owner with its state, and only that owner can adopt it", { skip }, async (t) => {
  const [first, second] = [await newOwner(t), await newOwner(t)];
  await using slot = await claimSlot(first);
  await slot.assign(second, "what is kept\nwith it");
  await rm(first, { recursive: true });
  assert.equal(
    (await leftOverSlots()).some(({ number }) => number === slot.number),
    false,
  );
  assert.equal((await adoptSlot(slot.number, second)).state, "what is kept\nwith it");
  await assert.rejects(adoptSlot(slot.number, first), (error) => isSandboxError(error, "not_found"));
});

test("a returned slot is free", { skip }, async (t) => {
  const owner = await newOwner(t);
  const slot = await claimSlot(owner);
  await slot[Symbol.asyncDispose]();
  await slot[Symbol.asyncDispose]();
  await assert.rejects(adoptSlot(slot.number, owner), (error) => isSandboxError(error, "not_found"));
});
