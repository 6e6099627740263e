import { z } from "zod";
import { claim, ownedFile, release } from "../owned-file.ts";
import { defineStep } from "../step.ts";
import type { System } from "../system.ts";

export const modulesFile = "/etc/modules-load.d/opensandbox.conf";

interface Module {
  readonly name: string;
  /** What a host lacks when its kernel does not have the module. */
  readonly without: string;
}

const schema = z.object({ file: ownedFile });

/** Kernel modules of machines and their networks, loaded now and at every boot. */
export const kernelModules = defineStep({
  name: "kernel modules",
  schema,
  async check(system) {
    const { available, unavailable } = await wantedModules(system);
    const unloaded = await without(available, ({ name }) => isLoaded(system, name));
    if ((await system.read(modulesFile)) !== contentFor(available)) {
      return { detail: `${modulesFile} does not list ${available.map(({ name }) => name).join(", ")}` };
    }
    if (unloaded.length > 0) return { detail: `not loaded: ${unloaded.map(({ name }) => name).join(", ")}` };
    if (unavailable.length === 0) return undefined;
    return {
      optional: true,
      detail: unavailable.map(({ name, without }) => `this kernel has no module ${name}: ${without}`).join("; "),
      fix: "install the distribution's full kernel (linux-image-amd64 on Debian, linux-image-generic on Ubuntu) and reboot",
    };
  },
  async apply(system, { before, remember }) {
    const { available } = await wantedModules(system);
    const content = contentFor(available);
    await remember({ file: await claim(system, modulesFile, content, before?.file) });
    await system.write(modulesFile, content);
    const unloaded = await without(available, ({ name }) => isLoaded(system, name));
    for (const { name } of unloaded) await system.change("modprobe", name);
    const loaded = unloaded.length === 0 ? "" : `, loaded ${unloaded.map(({ name }) => name).join(", ")}`;
    return `wrote ${modulesFile}${loaded}`;
  },
  async undo(system, { file }) {
    return `${await release(system, file)}; loaded modules stay until the next boot`;
  },
});

interface WantedModules {
  readonly available: readonly Module[];
  readonly unavailable: readonly Module[];
}

async function wantedModules(system: System): Promise<WantedModules> {
  const modules = [...(await kvmModules(system)), ...commonModules];
  const available: Module[] = [];
  const unavailable: Module[] = [];
  for (const module of modules) {
    // Loading a module that the kernel lacks would make systemd-modules-load.service fail at every boot.
    const { code } = await system.ask("modprobe", "--dry-run", "--quiet", module.name);
    if (code === 0 || (await isLoaded(system, module.name))) available.push(module);
    else unavailable.push(module);
  }
  return { available, unavailable };
}

const commonModules: readonly Module[] = [
  { name: "vhost_vsock", without: "the agent channel uses virtio-serial" },
  { name: "vhost_net", without: "packets of machines pass through QEMU" },
  { name: "tun", without: "machines have no network" },
  { name: "nf_tables", without: "nothing limits what machines reach" },
];

async function kvmModules(system: System): Promise<readonly Module[]> {
  const flags = /^flags\s*:(.*)$/m.exec((await system.read("/proc/cpuinfo")) ?? "")?.[1]?.split(" ") ?? [];
  const without = "machines run under emulation, which is much slower";
  if (flags.includes("vmx")) return [{ name: "kvm_intel", without }];
  if (flags.includes("svm")) return [{ name: "kvm_amd", without }];
  return [];
}

/** Also true for a module that is built into the kernel; not all of those are below /sys/module. */
async function isLoaded(system: System, name: string): Promise<boolean> {
  if (await system.exists(`/sys/module/${name}`)) return true;
  const release = (await system.read("/proc/sys/kernel/osrelease"))?.trim() ?? "";
  const builtIn = (await system.read(`/lib/modules/${release}/modules.builtin`)) ?? "";
  return builtIn
    .split("\n")
    .some((path) => path.endsWith(`/${name}.ko`) || path.endsWith(`/${name.replaceAll("_", "-")}.ko`));
}

function contentFor(modules: readonly Module[]): string {
  return `# Modules of OpenSandbox; 'osb host remove' deletes this file.\n${modules.map(({ name }) => `${name}\n`).join("")}`;
}

async function without<T>(values: readonly T[], matches: (value: T) => Promise<boolean>): Promise<T[]> {
  const matching = await Promise.all(values.map(matches));
  return values.filter((_, index) => !matching[index]);
}
