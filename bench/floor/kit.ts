import { execFile } from "node:child_process";
import { link, mkdir, readdir, readFile, stat, symlink } from "node:fs/promises";
import { basename, join } from "node:path";
import { promisify } from "node:util";

/**
 * The parts of a raw machine: the immutable files and the command line of a machine that a worker has restored. Taking
 * both from a real machine gives the raw one the same devices.
 */
export interface Kit {
  /** The directory of the files. */
  readonly directory: string;
  /** The command line. File names follow `{dir}/`. */
  readonly argv: readonly string[];
  /** Names of the files that every raw machine shares. */
  readonly shared: readonly string[];
  /** Empty qcow2 files, by the name of the layer that each becomes. */
  readonly emptyLayers: Readonly<Record<string, string>>;
  /** The device state of the template. */
  readonly devices: string;
  readonly memoryBase: string;
}

/** Makes a kit from the machine that runs in `machineDirectory` as process `pid`. */
export async function kitOf(machineDirectory: string, pid: number, directory: string): Promise<Kit> {
  await mkdir(directory, { recursive: true, mode: 0o711 });
  const line = await readFile(`/proc/${pid}/cmdline`, "utf8");
  const argv = line
    .split("\0")
    .slice(0, -1)
    .map((argument) => placed(argument, machineDirectory));
  const tops = argv.flatMap(writableLayers);
  const names = await readdir(machineDirectory);
  const devices = names.find((name) => name.startsWith("devices-"));
  if (devices === undefined || !argv.includes("-incoming")) {
    throw new Error("the machine was booted and not restored from a template, so there is no floor to measure");
  }
  const emptyLayers: Record<string, string> = {};
  for (const top of tops) {
    const base = join(machineDirectory, `${top.replace(/-\d+\.qcow2$/, "")}.base`);
    const empty = `empty-${top}`;
    const { size } = await stat(base);
    await promisify(execFile)("qemu-img", ["create", "-q", "-f", "qcow2", join(directory, empty), `${size}`]);
    emptyLayers[top] = empty;
  }
  const shared = names.filter((name) => /^(kernel|initramfs|devices-\d+|.*\.base|.*-\d+\.qcow2)$/.test(name));
  const immutable = shared.filter((name) => !tops.includes(name));
  for (const name of immutable) await share(join(machineDirectory, name), join(directory, name));
  return { directory, argv, shared: immutable, emptyLayers, devices, memoryBase: memoryBaseOf(argv) };
}

/** A hard link, so that the file lives as long as the kit; across file systems, a symbolic link. */
export async function share(file: string, at: string): Promise<void> {
  try {
    await link(file, at);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EXDEV") throw error;
    await symlink(file, at);
  }
}

/**
 * Replaces the host-side ends: QEMU connects to the monitor's socket itself, and creates a TAP that stays down. (The
 * state of a network card on a TAP can be restored only to another card on a TAP.)
 */
function placed(argument: string, machineDirectory: string): string {
  return argument
    .replaceAll(machineDirectory, "{dir}")
    .replace(/^guest=.*/, "guest=raw")
    .replace(/^socket,id=qmp,fd=\d+,.*/, "socket,id=qmp,path={dir}/qmp.sock,server=off")
    .replace(/^socket,id=agent,fd=\d+,.*/, "socket,id=agent,path={dir}/agent.sock,server=on,wait=off")
    .replace(/^tap,id=net0,.*/, "tap,id=net0,ifname=osbraw%d,script=no,downscript=no,vhost=off");
}

function writableLayers(argument: string): string[] {
  if (!argument.startsWith('{"driver":"qcow2"')) return [];
  const node = JSON.parse(argument) as { readonly "read-only": boolean; readonly file: { readonly filename: string } };
  return node["read-only"] ? [] : [basename(node.file.filename)];
}

function memoryBaseOf(argv: readonly string[]): string {
  const [, file = ""] = /mem-path=\{dir\}\/([^,]+)/.exec(argv.join(" ")) ?? [];
  return file;
}
