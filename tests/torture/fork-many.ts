import { newSnapshotId, type SandboxId } from "@opensandbox/wire/ids.ts";
import { startCounting, startTestHost, type TestHost } from "../../packages/worker/src/testing/test-host.ts";
import { clockOffset, type ClockOffset } from "./clock-offset.ts";

const never = new AbortController().signal;

export interface ForkMany {
  readonly count: number;
  /** Number of forks that start at the same time. */
  readonly batch: number;
  readonly image: string;
  readonly say: (line: string) => void;
}

export interface ForkManyResult {
  /** One line for each failure; empty when all forks are distinct and the parent is unaffected. */
  readonly failures: readonly string[];
  readonly forks: number;
  readonly clocks: readonly ClockOffset[];
}

/** Values that must be unique to each machine: printed by the guest, one `name value` a line. */
const facts = [
  'python3 -c \'import os, uuid; print("getrandom", os.getrandom(16).hex()); print("uuid4", uuid.uuid4())\'',
  "echo kernel-uuid $(cat /proc/sys/kernel/random/uuid)",
  "echo boot-id $(cat /proc/sys/kernel/random/boot_id)",
  "echo machine-id $(cat /etc/machine-id)",
  "echo hostname $(hostname)",
  "echo mac $(cat /sys/class/net/eth0/address)",
  "! command -v uuidgen >/dev/null || echo uuidgen $(uuidgen)",
  "! command -v openssl >/dev/null || echo openssl $(openssl rand -hex 16)",
].join("; ");

/** Values that a machine keeps as long as it lives. */
const lasting = ["boot-id", "machine-id", "hostname", "mac"];
/** Values shorter than 16 random bytes. */
const short = new Map([
  ["hostname", "sandbox".length],
  ["mac", "00:00:00:00:00:00".length],
]);

/** Forks one checkpoint repeatedly, and compares the values that the forks and their parent report. */
export async function forkMany({ count, batch, image, say }: ForkMany): Promise<ForkManyResult> {
  await using host = await startTestHost();
  const failures: string[] = [];
  const clocks: ClockOffset[] = [];
  const seen = new Map<string, string>();
  const from = { kind: "image", image } as const;
  const { id: parent } = await host.start(from);
  await host.shell(
    parent,
    `${startCounting}; head -c 3000000 /dev/urandom >/workspace/file; sha256sum /workspace/file >~/sum`,
  );
  await compare(parent, "the parent");
  const snapshotId = newSnapshotId();
  await host.worker.captureSandbox(parent, { snapshotId, contents: "memory and disks" }, never);
  const counted = async (id: SandboxId): Promise<number> => Number(await host.shell(id, "cat /dev/shm/count"));
  const before = await counted(parent);

  for (let first = 0; first < count; first += batch) {
    const names = Array.from({ length: Math.min(batch, count - first) }, (_, index) => `fork ${first + index + 1}`);
    await Promise.all(names.map(forkOnce));
    say(`${first + names.length} of ${count} forks, ${failures.length} failures`);
  }

  const after = await counted(parent);
  if (after <= before) failures.push(`the parent has not gone on: ${before}, then ${after}`);
  await compare(parent, "the parent afterwards", lasting);
  await lookWhole(host, parent).catch((error: unknown) => failures.push(`the parent: ${String(error)}`));
  return { failures, forks: count, clocks };

  async function forkOnce(name: string): Promise<void> {
    try {
      const { id, restoredFrom } = await host.start({ kind: "snapshot", snapshotId, identity: "new" });
      if (restoredFrom !== "memory") failures.push(`${name} was booted from the disks`);
      await compare(id, name);
      await lookWhole(host, id);
      if ((await counted(id)) <= 0) failures.push(`${name} does not count`);
      clocks.push(await clockOffset(host.worker, id));
      await host.worker.stopSandbox(id);
    } catch (error) {
      failures.push(`${name}: ${String(error)}`);
    }
  }

  /** `kept`: the facts that must not have changed. */
  async function compare(id: SandboxId, name: string, kept: readonly string[] = []): Promise<void> {
    for (const line of (await host.shell(id, facts)).split("\n")) {
      const [fact = "", value = ""] = line.split(" ");
      if (value.length < (short.get(fact) ?? 32)) failures.push(`${name} says ${line}`);
      const other = seen.get(line);
      seen.set(line, name);
      if (kept.includes(fact) ? other === undefined : other !== undefined) {
        failures.push(`${fact} of ${name}: ${value}, ${other === undefined ? "not as it was" : `as of ${other}`}`);
      }
    }
  }
}

async function lookWhole(host: TestHost, id: SandboxId): Promise<void> {
  await host.shell(id, "echo 3 | sudo tee /proc/sys/vm/drop_caches; sha256sum -c --quiet sum");
  const said = await host.shell(id, "sudo dmesg | grep -iE 'ext4.*(error|warning|corrupt)|I/O error' || true");
  if (said !== "") throw new Error(said);
}
