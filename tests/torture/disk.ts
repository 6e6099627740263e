// Measures the disk space of idle sandboxes, and the remainder after their deletion: see disk-use.ts.
import { parseArgs } from "node:util";
import { diskUse, writtenBytes } from "./disk-use.ts";

const { values } = parseArgs({ options: { count: { type: "string", default: "20" } } });
const count = Number(values.count);
const use = await diskUse(count);
const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
process.stdout.write(
  [
    `${count} idle sandboxes of one template: ${mib(use.idle - use.before)}, ${mib((use.idle - use.before) / count)} each`,
    `one of them has written ${mib(writtenBytes)}: ${mib(use.written - use.idle)} more`,
    `all deleted, a checkpoint of that one kept: ${mib(use.checkpoint - use.before)}`,
    `that deleted too, a fork of it kept: ${mib(use.fork - use.before)}`,
    `nothing kept: ${mib(use.after - use.before)}`,
    "",
  ].join("\n"),
);
