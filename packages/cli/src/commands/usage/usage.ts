import type { UsageTotals } from "@opensandbox/sdk";
import { optional, text, whole } from "#arguments/inputs.ts";
import { table } from "#output/table.ts";
import { defineCommand } from "../../command.ts";

export const usage = defineCommand({
  summary: "Report the memory, disk, processor time and egress of sandboxes over time",
  description:
    "Counts allocated sizes: memory and vCPUs while a sandbox runs, and disk beyond 20 GB until it is deleted. Processor " +
    "time and egress are measured on the host and stored by the hour. Without times it reports the last 30 days, or the " +
    "last hour of one sandbox.",
  arguments: { id: optional("SANDBOX") },
  options: {
    from: text("TIME", "the beginning, such as 2030-01-31T00:00:00Z"),
    to: text("TIME", "the end; default: now"),
    tag: text("KEY", "report by the values of this tag"),
    limit: whole("N", "the largest N; default 100"),
  },
  examples: [
    { line: "usage", shows: "report the sandboxes with the most memory" },
    { line: "usage --tag team", shows: "report by the values of a tag" },
    { line: "usage sb-1a2b3c4d", shows: "report the last hour of one sandbox" },
  ],
  check: ({ id, tag, limit }) =>
    id !== undefined && (tag !== undefined || limit !== undefined)
      ? "--tag and --limit apply to all sandboxes: leave out SANDBOX, or them"
      : undefined,
  async run({ id, from, to, tag, limit }, { client, print, signal }) {
    const { usage: reports } = await client();
    const window = { ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }) };
    if (id !== undefined) {
      const found = await reports.ofSandbox(id, window, signal);
      const { memoryGbSeconds, uptimeSeconds, peakMemoryMib } = found;
      const lines = [
        `from: ${found.from}`,
        `to: ${found.to}`,
        `uptime: ${uptimeSeconds.toFixed(0)} s`,
        `memory: ${memoryGbSeconds.toFixed(1)} GB-seconds`,
        `peak memory: ${peakMemoryMib} MiB`,
        `disk beyond 20 GB: ${found.diskOverageGbSeconds.toFixed(1)} GB-seconds`,
        `processor time: ${found.cpuSeconds.toFixed(1)} s`,
        `egress: ${mib(found.egressBytes)} MiB`,
      ];
      return await print(lines.join("\n"), found);
    }
    const query = { ...window, ...(limit === undefined ? {} : { limit }) };
    if (tag === undefined) {
      const found = await reports.bySandbox(query, signal);
      const rows = found.items.map((item) => [
        ...[item.sandboxId, item.alias ?? "", item.status ?? "removed"],
        ...amountsOf(item),
      ]);
      const total = ["total", "", "", ...amountsOf(found.total)];
      return await print(table(["SANDBOX", "ALIAS", "STATUS", ...amounts], [...rows, total]), found);
    }
    const found = await reports.byTag(tag, query, signal);
    const rows = found.items.map((item) => [item.value, String(item.sandboxCount), ...amountsOf(item)]);
    const untagged = ["(without)", String(found.untagged.sandboxCount), ...amountsOf(found.untagged)];
    await print(table([tag.toUpperCase(), "SANDBOXES", ...amounts], [...rows, untagged]), found);
  },
});

const amounts = ["MEMORY GB-S", "DISK GB-S", "VCPU-S", "CPU-S", "EGRESS MIB"];

function amountsOf(totals: UsageTotals): readonly string[] {
  const { memoryGbSeconds, diskOverageGbSeconds, vcpuSeconds, cpuSeconds, egressBytes } = totals;
  const seconds = [memoryGbSeconds, diskOverageGbSeconds, vcpuSeconds, cpuSeconds].map((amount) => amount.toFixed(1));
  return [...seconds, mib(egressBytes)];
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}
