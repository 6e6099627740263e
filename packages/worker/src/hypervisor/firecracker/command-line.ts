import type { VmSpec } from "../hypervisor.ts";
import type { KvmAccess } from "../kvm-access.ts";
import { diskNodes } from "../qmp/disk-nodes.ts";
import { diskImage, ownDirectory, ownNames, ownPathOf, pathOf } from "./paths.ts";

/** Facts of the host that decide the command line. */
export interface FirecrackerHost {
  /** Absolute path of the program. */
  readonly program: string;
  readonly version: string;
  /** How Firecracker, which takes no open descriptor, reaches /dev/kvm. */
  readonly kvmAccess: Exclude<KvmAccess, { readonly by: "descriptor" }>;
  /** Identity of the host's processor, which guests see. */
  readonly processor: string;
  /** Whether setpriv(1) of this host loads a filter of system calls, which util-linux 2.41 and newer can. */
  readonly filtersCalls: boolean;
}

/** The monitor of the storage daemon listens on the first descriptor after standard error. */
const storageListener = 3;

/**
 * The argument list of a machine's processes, program first. A shell in name spaces of its own starts the storage daemon,
 * which shows each writable disk as a raw image there, takes the rest of the host's files away, and becomes Firecracker.
 * No process outside sees the images, and they end with the name space. Pure.
 *
 * @param linked files elsewhere, which links in the machine's directory lead to
 */
export function firecrackerCommandLine(
  spec: VmSpec,
  host: FirecrackerHost,
  linked: readonly string[],
): [string, ...string[]] {
  // The user is mapped to itself and may mount in its own name space; outside it has no more rights than before.
  const namespaces = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"] as const;
  return [...namespaces, "sh", "-c", script(spec, host, linked)];
}

function script(spec: VmSpec, { program, filtersCalls }: FirecrackerHost, linked: readonly string[]): string {
  const writable = spec.disks.filter(({ layers }) => layers.length > 0);
  const images = writable.map(({ name }) => quoted(diskImage(name)));
  const filter = filtersCalls ? ["--seccomp-filter", pathOf(spec.directory, "filter")] : [];
  const line = [
    "set -e",
    `mkfifo -m 600 ${ownNames.console}`,
    ...images.map((image) => `: >${image}`),
    ...(images.length === 0 ? [] : [command(confined(["sys_admin"], [], storageDaemon(spec)))]),
    // The kernel takes an image's rights from its first stat(2); until then nobody may open it for writing.
    ...images.map((image) => `[ -s ${image} ]`),
    ...ownRoot(spec, [program, ...linked]),
    `exec ${command(confined([], filter, firecracker(spec, program)))} ${storageListener}>&-`,
  ];
  return line.join("\n");
}

/**
 * Commands after which the machine's processes see the host's programs, the machine's files and its devices, and nothing
 * else of the host, as under Firecracker's jailer. The file system of their root is in memory; it is mounted on /sys,
 * which every host has and no machine needs. Paths stay the same.
 */
function ownRoot({ directory }: VmSpec, files: readonly string[]): readonly string[] {
  const machine = quoted(directory);
  return [
    "mount -n -t tmpfs -o mode=755,size=1m root /sys",
    "cd /sys",
    `mkdir -p old proc usr dev/net ${quoted(`.${directory}`)}`,
    "for folder in bin sbin lib lib32 lib64; do",
    `if [ -L /$folder ]; then ln -s "$(readlink /$folder)" $folder`,
    "elif [ -d /$folder ]; then mkdir $folder; mount -n --rbind /$folder $folder; fi",
    "done",
    `for folder in /usr /proc ${machine}; do mount -n --rbind "$folder" ".$folder"; done`,
    `for file in /dev/null /dev/urandom /dev/kvm /dev/net/tun ${command(files)}; do`,
    `if [ -L "$file" ]; then file=$(readlink -f "$file"); fi`,
    `if [ -e ".$file" ]; then continue; fi`,
    `mkdir -p ".\${file%/*}"; : >".$file"; mount -n --bind "$file" ".$file"`,
    "done",
    "/usr/sbin/pivot_root . old",
    // umount(8) reads /proc to find a mount.
    "cd /; umount -n -l /old; rmdir /old; umount -n -l /proc; rmdir /proc",
    `cd ${quoted(ownDirectory(directory))}`,
  ];
}

function firecracker({ directory }: VmSpec, program: string): readonly string[] {
  return [
    program,
    ...["--id", directory.split("/").at(-1) ?? ""],
    // The name of the directory: the worker finds a machine's processes by it.
    ...["--api-sock", ownPathOf(directory, "api")],
    // A guest can make Firecracker log warnings without end.
    ...["--level", "Error"],
    // The guest's drivers for PCI are part of its kernel.
    "--enable-pci",
  ];
}

/** Returns when the images can be opened. */
function storageDaemon({ directory, disks }: VmSpec): readonly string[] {
  const writable = disks.filter(({ layers }) => layers.length > 0);
  return [
    ...["qemu-storage-daemon", "--daemonize"],
    ...["--chardev", `socket,id=qmp,fd=${storageListener},server=on,wait=off`],
    ...["--monitor", "chardev=qmp"],
    ...writable.flatMap((disk) => {
      const nodes = diskNodes(disk);
      const mountpoint = `${ownDirectory(directory)}/${diskImage(disk.name)}`.replaceAll(",", ",,");
      const options = `id=${disk.name},node-name=${nodes.at(-1)?.["node-name"]},mountpoint=${mountpoint}`;
      return [
        ...nodes.flatMap((node) => ["--blockdev", JSON.stringify(node)]),
        ...["--export", `type=fuse,${options},writable=on,growable=off,allow-other=off`],
      ];
    }),
  ];
}

/** A program that has, and can gain, only the named capabilities, in the machine's own user name space. */
function confined(
  capabilities: readonly string[],
  filter: readonly string[],
  argv: readonly string[],
): readonly string[] {
  const only = ["-all", ...capabilities.map((name) => `+${name}`)].join();
  const sets = [`--bounding-set=${only}`, `--inh-caps=${only}`, `--ambient-caps=${only}`];
  return ["setpriv", "--no-new-privs", ...sets, ...filter, ...argv];
}

function command(argv: readonly string[]): string {
  return argv.map(quoted).join(" ");
}

/** One word of a shell. */
function quoted(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
