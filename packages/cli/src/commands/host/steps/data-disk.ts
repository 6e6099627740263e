import { z } from "zod";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { dataDirectory } from "../options.ts";
import { defineStep, type Difference, type Step } from "../step.ts";
import type { System } from "../system.ts";

/** The label of the file system, by which a reinstalled host finds its data again. */
const label = "opensandbox";

/** `auto` takes no smaller disk: built images alone need some gigabytes. */
const minBytes = 8 * 2 ** 30;

export const dataDiskStep = "data disk";

const schema = z.object({
  device: z.string(),
  /** The lines that were added to /etc/fstab. */
  fstab: z.string().optional(),
});

/** The disk that a set-up mounted at the data directory, by what it recorded. */
export function dataDeviceOf(recorded: unknown): string | undefined {
  const { data } = schema.safeParse(recorded);
  return data?.fstab === undefined ? undefined : data.device;
}

/**
 * A disk for the data directory, with a file system that shares blocks between copies. Nothing formats a disk that has
 * any signature: a partition table, a file system, a RAID or LVM member, swap.
 * @param wanted see `HostOptions.dataDisk`
 */
export function dataDisk(wanted: string): Step {
  return defineStep({
    name: dataDiskStep,
    schema,
    check: (system, before) => differenceOf(system, wanted, before?.device),
    async apply(system, { before, remember }) {
      const { device, formatted } = await chooseDevice(system, wanted, before?.device);
      await remember({ ...before, device });
      // Without --force, mkfs.xfs refuses a disk with a signature as well.
      if (!formatted) await system.change("mkfs.xfs", "-q", "-m", "reflink=1", "-L", label, device);
      const uuid = (await system.change("blkid", "--probe", "-s", "UUID", "-o", "value", device)).trim();
      const fstab = `# Data of OpenSandbox\nUUID=${uuid} ${dataDirectory} xfs ${mountOptions} 0 0\n`;
      const mounts = (await system.read("/etc/fstab")) ?? "";
      if (!mounts.includes(fstab)) {
        await remember({ device, fstab });
        await system.write("/etc/fstab", `${mounts}${mounts === "" || mounts.endsWith("\n") ? "" : "\n"}${fstab}`);
      }
      await system.makeDirectory(dataDirectory, 0o711);
      await system.change("systemctl", "daemon-reload");
      if (!(await isMounted(system))) await system.change("mount", dataDirectory);
      // The directory of a new file system can be listed by all users.
      await system.change("chmod", "0711", dataDirectory);
      return `${formatted ? "mounted" : "formatted and mounted"} ${device} at ${dataDirectory}`;
    },
    async undo(system, { device, fstab }) {
      if (fstab === undefined) return `${device} was not mounted`;
      if (await isMounted(system)) await system.change("umount", dataDirectory);
      const mounts = (await system.read("/etc/fstab")) ?? "";
      await system.write("/etc/fstab", mounts.replace(fstab, ""));
      await system.change("systemctl", "daemon-reload");
      await system.removeEmpty(dataDirectory);
      return `unmounted ${device}, which keeps its data`;
    },
  });
}

/**
 * A host whose data disk is missing still boots, so that it can be mended over ssh. The service needs the mount, so it
 * does not start on an empty directory instead.
 */
const mountOptions = "defaults,nofail,x-systemd.device-timeout=60s";

async function differenceOf(
  system: System,
  wanted: string,
  device: string | undefined,
): Promise<Difference | undefined> {
  if (wanted === "none" || (await isMounted(system))) return undefined;
  if (device !== undefined) return { detail: `${device} is not mounted at ${dataDirectory}` };
  const found = wanted === "auto" ? await findDevice(system) : wanted;
  if (found === undefined) return undefined;
  if ((await system.entries(dataDirectory)).length === 0) return { detail: `${found} holds no data yet` };
  return {
    optional: true,
    detail: `${found} is unused, and ${dataDirectory} has content, which a mount would hide`,
    fix: `stop the server, move the content of ${dataDirectory} away, run the set-up, and move the content back`,
  };
}

interface Chosen {
  readonly device: string;
  readonly formatted: boolean;
}

async function chooseDevice(system: System, wanted: string, earlier: string | undefined): Promise<Chosen> {
  const device = earlier ?? (wanted === "auto" ? await findDevice(system) : wanted);
  if (device === undefined) throw new SandboxError("unavailable", "the empty disk is no longer there");
  const disk = (await listDisks(system)).find(({ path }) => path === device);
  if (disk === undefined) throw new SandboxError("invalid_argument", `${device} is not a disk of this host; see lsblk`);
  if (isOurs(disk)) return { device, formatted: true };
  const obstacle = await whyNotEmpty(system, disk);
  if (obstacle !== undefined) {
    const message = `cannot use ${device} as the data disk: it ${obstacle}. If nothing needs that, erase it with 'wipefs --all ${device}'`;
    throw new SandboxError("invalid_argument", message);
  }
  return { device, formatted: false };
}

/** A disk of an earlier installation, or else the first disk without any content. */
async function findDevice(system: System): Promise<string | undefined> {
  const disks = await listDisks(system);
  const ours = disks.find((disk) => isOurs(disk) && disk.mountpoints.every((at) => at === null));
  if (ours !== undefined) return ours.path;
  for (const disk of disks) {
    if (disk.size < minBytes || (await whyNotEmpty(system, disk)) !== undefined) continue;
    // Data without a known signature, such as encrypted data, is not zero.
    const { code } = await system.ask("cmp", "--quiet", "--bytes=1048576", disk.path, "/dev/zero");
    if (code === 0) return disk.path;
  }
  return undefined;
}

const diskSchema = z.object({
  path: z.string(),
  name: z.string(),
  type: z.string(),
  size: z.number(),
  ro: z.boolean(),
  fstype: z.string().nullable(),
  label: z.string().nullable(),
  pttype: z.string().nullable(),
  mountpoints: z.array(z.string().nullable()),
  children: z.array(z.unknown()).optional(),
});
type Disk = z.infer<typeof diskSchema>;

/** Devices that hold no lasting data: RAM disks, and media that can be removed. */
const unsuitable = /^(zram|ram|loop|nbd|fd|sr)\d/;

async function listDisks(system: System): Promise<readonly Disk[]> {
  const columns = "PATH,NAME,TYPE,SIZE,RO,FSTYPE,LABEL,PTTYPE,MOUNTPOINTS";
  const listed = await system.change("lsblk", "--json", "--bytes", "--output", columns);
  const { blockdevices } = z.object({ blockdevices: z.array(diskSchema) }).parse(JSON.parse(listed));
  return blockdevices
    .filter(({ type, name }) => type === "disk" && !unsuitable.test(name))
    .toSorted((a, b) => a.path.localeCompare(b.path, "en"));
}

function isOurs({ fstype, label: present }: Disk): boolean {
  return fstype === "xfs" && present === label;
}

/** Undefined for a disk that can be formatted. */
async function whyNotEmpty(system: System, disk: Disk): Promise<string | undefined> {
  if (disk.ro) return "is read-only";
  if ((disk.children ?? []).length > 0) return "has partitions or volumes";
  if (disk.mountpoints.some((at) => at !== null)) return "is mounted";
  const known = disk.fstype ?? disk.pttype;
  if (known !== null) return `holds ${known}`;
  // lsblk shows what udev saw earlier. These two read the disk, and each knows signatures that the other lacks.
  const signatures = (await system.change("wipefs", "--no-act", "--noheadings", "--output", "TYPE", disk.path)).trim();
  if (signatures !== "") return `holds ${signatures.split("\n").join(", ")}`;
  const probed = await system.ask("blkid", "--probe", disk.path);
  return probed.code === 2 ? undefined : "has a signature that blkid --probe finds";
}

async function isMounted(system: System): Promise<boolean> {
  return (await system.ask("findmnt", "--noheadings", "--mountpoint", dataDirectory)).code === 0;
}
