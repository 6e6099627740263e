import type { MemberReport } from "@opensandbox/server/fleet.ts";
import { defineCommand } from "../../command.ts";
import { age } from "#output/age.ts";
import { one } from "#arguments/inputs.ts";
import { table } from "#output/table.ts";

export const workers = defineCommand({
  summary: "List the workers of the fleet",
  description: `A silent worker has not answered its server for some seconds. Its sandboxes are kept, and calls to them are refused until it
answers again.`,
  examples: [{ line: "admin workers", shows: "show each worker, what it has free and how many sandboxes run on it" }],
  async run(_input, { host, print, signal }) {
    const { readConfig } = await import("@opensandbox/server/config.ts");
    const { listWorkers } = await import("@opensandbox/server/fleet.ts");
    const all = await listWorkers(readConfig(host.env), signal);
    const headers = ["WORKER", "STATE", "SANDBOXES", "MEMORY FREE", "DISK FREE", "HYPERVISOR", "SEEN", "ADDRESS"];
    await print(table(headers, all.map(rowOf)), all);
  },
});

function rowOf(worker: MemberReport): string[] {
  const { id, state, cordoned, sandboxes, freeMemoryMib, totalMemoryMib, freeDiskPercent } = worker;
  return [
    id,
    worker.draining ? `${state}, draining` : cordoned ? `${state}, cordoned` : state,
    String(sandboxes),
    freeMemoryMib === undefined ? "-" : `${freeMemoryMib} of ${totalMemoryMib} MiB`,
    freeDiskPercent === undefined ? "-" : `${freeDiskPercent} %`,
    worker.hypervisor,
    worker.seenAt === undefined ? "-" : age(worker.seenAt),
    worker.url,
  ];
}

export const cordon = defineCommand({
  summary: "Keep new sandboxes away from a worker",
  description: "Its sandboxes stay, and hibernated ones wake on it.",
  arguments: { id: one("WORKER") },
  examples: [{ line: "admin cordon wk-1a2b3c4d5e6f", shows: "place new sandboxes on other workers" }],
  async run({ id }, { host, print, signal }) {
    await setCordoned(host.env, { id, cordoned: true }, signal);
    await print(`${id} gets no new sandboxes`, { id, cordoned: true });
  },
});

export const uncordon = defineCommand({
  summary: "Allow new sandboxes on a worker again",
  arguments: { id: one("WORKER") },
  examples: [{ line: "admin uncordon wk-1a2b3c4d5e6f", shows: "end an 'osb admin cordon' or 'osb admin drain'" }],
  async run({ id }, { host, print, signal }) {
    await setCordoned(host.env, { id, cordoned: false }, signal);
    await print(`${id} gets new sandboxes again`, { id, cordoned: false });
  },
});

async function setCordoned(
  env: Readonly<Record<string, string | undefined>>,
  change: { readonly id: string; readonly cordoned: boolean },
  signal: AbortSignal,
): Promise<void> {
  const { readConfig } = await import("@opensandbox/server/config.ts");
  const { cordonWorker } = await import("@opensandbox/server/fleet.ts");
  await cordonWorker(readConfig(env), change, signal);
}
