import { columns } from "#output/table.ts";
import { defineCommand } from "../../command.ts";

export const snapshots = defineCommand({
  summary: "List the snapshots that this version cannot restore on this host",
  description: `Checks the snapshots of all hibernated sandboxes, checkpoints and images in the data directory: their format, and
whether the machine of their memory can be made with this version and this hypervisor. Starts no machine and changes
nothing; a server may run. Exits with 1 when it lists one. 'osb upgrade' runs it with the new version.`,
  examples: [{ line: "admin snapshots", shows: "check all snapshots, for example after an upgrade of QEMU" }],
  async run(_input, { host, print, progress }) {
    using shown = progress();
    shown.report("checking the snapshots");
    const { examineSnapshots, readConfig } = await import("@opensandbox/server");
    const problems = await examineSnapshots(readConfig(host.env));
    shown.pause();
    const rows = problems.map(({ id, problem }) => [id, problem]);
    await print(problems.length === 0 ? "every snapshot can be restored" : columns(rows), problems);
    return problems.length === 0 ? 0 : 1;
  },
});
