import { z } from "zod";
import { claim, ownedFile, release } from "../owned-file.ts";
import { defineStep } from "../step.ts";
import type { System } from "../system.ts";

export const sysctlFile = "/etc/sysctl.d/60-opensandbox.conf";

/** The minimum of each kernel setting. A host with a higher value keeps it. */
const minimums: Readonly<Record<string, number>> = {
  // Routes packets between machines and the network.
  "net.ipv4.ip_forward": 1,
  // Each machine takes entries of the neighbour table, whose default holds 1024.
  "net.ipv4.neigh.default.gc_thresh1": 1024,
  "net.ipv4.neigh.default.gc_thresh2": 4096,
  "net.ipv4.neigh.default.gc_thresh3": 8192,
  "fs.file-max": 1_000_000,
  "fs.inotify.max_user_instances": 8192,
  "fs.inotify.max_user_watches": 524_288,
};

const schema = z.object({
  file: ownedFile,
  /** Values from before the first set-up. */
  values: z.record(z.string(), z.string()),
});

/** Limits of the kernel that many machines would reach. */
export const kernelSettings = defineStep({
  name: "kernel settings",
  schema,
  async check(system) {
    const low = await tooLow(system);
    if (low.length > 0) {
      return { detail: low.map(({ name, value }) => `${name} is ${value}, below ${minimums[name]}`).join("; ") };
    }
    if (await system.exists(sysctlFile)) return undefined;
    return { detail: `${sysctlFile} does not exist, so that a reboot may lower kernel settings` };
  },
  async apply(system, { before, remember }) {
    const low = await tooLow(system);
    const lines = Object.entries(minimums).filter(
      ([name]) => before?.values[name] !== undefined || low.some((setting) => setting.name === name),
    );
    const content = `# Kernel settings of OpenSandbox; 'osb host remove' restores the earlier ones.\n${lines.map(([name, value]) => `${name} = ${value}\n`).join("")}`;
    await remember({
      file: await claim(system, sysctlFile, content, before?.file),
      values: { ...Object.fromEntries(low.map(({ name, value }) => [name, value])), ...before?.values },
    });
    await system.write(sysctlFile, content);
    await system.change("sysctl", "--quiet", "--load", sysctlFile);
    return `wrote ${sysctlFile}${low.length === 0 ? "" : `, raised ${low.map(({ name }) => name).join(", ")}`}`;
  },
  async undo(system, { file, values }) {
    const done = await release(system, file);
    for (const [name, value] of Object.entries(values)) await system.change("sysctl", "--quiet", `${name}=${value}`);
    return done;
  },
});

async function tooLow(system: System): Promise<{ readonly name: string; readonly value: string }[]> {
  const low: { name: string; value: string }[] = [];
  for (const [name, minimum] of Object.entries(minimums)) {
    const value = (await system.read(`/proc/sys/${name.replaceAll(".", "/")}`))?.trim();
    // BigInt: fs.file-max is 2^63 - 1 on most hosts.
    if (value !== undefined && BigInt(value) < BigInt(minimum)) low.push({ name, value });
  }
  return low;
}
