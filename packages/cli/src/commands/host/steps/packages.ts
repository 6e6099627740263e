import { z } from "zod";
import { defineStep, type Step } from "../step.ts";
import type { System } from "../system.ts";

/** Packages besides those that the launcher installs: the tools for the data disk. */
const furtherPackages = ["xfsprogs"];

/** Package sources that the launcher adds where the distribution's QEMU is too old. */
const sources = ["backports", "cloud-archive"].map((name) => `/etc/apt/sources.list.d/opensandbox-${name}.sources`);

const schema = z.object({
  /** Packages that were not on the host before. */
  installed: z.array(z.string()),
  /** Package sources that were not on the host before. */
  sources: z.array(z.string()),
});

/** The programs that machines and images need. The launcher knows them and the source of each. */
export function packages(launcher: string): Step {
  return defineStep({
    name: "packages",
    schema,
    async check(system) {
      const missing = await missingPackages(system, launcher);
      return missing.length === 0 ? undefined : { detail: `missing: ${missing.join(", ")}` };
    },
    async apply(system, { before, remember }) {
      const missing = await missingPackages(system, launcher);
      const newSources = await filter(sources, async (file) => !(await system.exists(file)));
      const installedBefore = new Set(await installedPackages(system));
      const earlier = { installed: before?.installed ?? [], sources: before?.sources ?? [] };
      const record = (installed: readonly string[]) =>
        remember({
          installed: distinct([...earlier.installed, ...installed]),
          sources: distinct([...earlier.sources, ...newSources]),
        });
      await record(missing);
      await system.change(launcher, "setup");
      const further = await notInstalled(system, furtherPackages);
      if (further.length > 0) {
        const quiet = ["-q", "-y", "-o", "DPkg::Lock::Timeout=600", "--no-install-recommends"] as const;
        await system.change("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", ...quiet, "install", ...further);
      }
      const installed = (await installedPackages(system)).filter((name) => !installedBefore.has(name));
      await record(installed);
      return `installed ${installed.join(", ")}`;
    },
    async undo(system, { installed, sources }) {
      for (const file of sources) await system.remove(file);
      const present = new Set(await installedPackages(system));
      const ours = installed.filter((name) => present.has(name));
      if (ours.length === 0) return "no packages to remove";
      // Another program may need them by now, which apt-get finds out.
      await system.change("apt-mark", "auto", ...ours);
      return `marked ${ours.length} packages as automatically installed; 'apt-get autoremove' removes those that nothing needs`;
    },
  });
}

async function missingPackages(system: System, launcher: string): Promise<string[]> {
  const listed = (await system.change(launcher, "setup", "--missing")).split("\n").filter((line) => line !== "");
  return [...listed, ...(await notInstalled(system, furtherPackages))];
}

async function notInstalled(system: System, names: readonly string[]): Promise<string[]> {
  const installed = new Set(await installedPackages(system));
  return names.filter((name) => !installed.has(name));
}

async function installedPackages(system: System): Promise<string[]> {
  const listed = await system.change("dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\\n");
  return listed.split("\n").flatMap((line) => {
    const [name = "", status] = line.split(" ");
    return status === "installed" ? [name] : [];
  });
}

function distinct(values: readonly string[]): string[] {
  return [...new Set(values)].toSorted();
}

async function filter<T>(values: readonly T[], matches: (value: T) => Promise<boolean>): Promise<T[]> {
  const matching = await Promise.all(values.map(matches));
  return values.filter((_, index) => matching[index]);
}
