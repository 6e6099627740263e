import { mkdir, mkdtemp, readFile, readdir, readlink, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type Argv, type Ran, System } from "../system.ts";

export interface FakeDisk {
  readonly path: string;
  readonly size?: number;
  readonly ro?: boolean;
  fstype?: string | null;
  label?: string | null;
  readonly pttype?: string | null;
  mountpoints?: (string | null)[];
  readonly children?: readonly object[];
  /** The signature that wipefs finds on the disk. */
  readonly signature?: string;
  /** Whether blkid --probe finds a signature. */
  readonly probed?: boolean;
  /** Whether the first MiB has a byte that is not zero. */
  readonly dirty?: boolean;
}

export interface FakeHostOptions {
  readonly files?: Readonly<Record<string, string>>;
  readonly disks?: readonly FakeDisk[];
  /** Modules that the kernel has. */
  readonly modules?: readonly string[];
  readonly packages?: readonly string[];
  readonly systemdVersion?: number;
}

/** A host that consists of a directory and of programs that only change this object and that directory. */
export class FakeHost implements AsyncDisposable {
  readonly root: string;
  readonly system: System;
  readonly disks: FakeDisk[];
  readonly packages: Set<string>;
  readonly automatic = new Set<string>();
  readonly users = new Set<string>(["root"]);
  /** State of each systemd unit. */
  readonly units = new Map<string, { enabled: boolean; active: boolean }>();
  /** The certificate chain that the next 'osb host certificate' gets. */
  certificate: string | undefined;
  /** Every command that changed something. */
  readonly changes: string[] = [];
  /** The number of the command that fails, counted over all commands; undefined: none. */
  failAt: number | undefined;
  /** The number of commands so far. */
  commands = 0;
  readonly #modules: readonly string[];
  readonly #systemdVersion: number;

  private constructor(root: string, options: FakeHostOptions) {
    this.root = root;
    this.disks = structuredClone([...(options.disks ?? [])]);
    this.packages = new Set(options.packages ?? ["bash", "nftables"]);
    this.#modules = options.modules ?? ["kvm_intel", "vhost_vsock", "vhost_net", "tun", "nf_tables"];
    this.#systemdVersion = options.systemdVersion ?? 257;
    this.system = new System({ root, runner: (argv) => this.#run(argv) });
  }

  static async make(options: FakeHostOptions = {}): Promise<FakeHost> {
    const root = await mkdtemp(join(tmpdir(), "osb-host-"));
    const files = {
      "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n',
      "/run/systemd/system/.keep": "",
      "/etc/fstab": "UUID=1 / ext4 defaults 0 1\n",
      "/proc/cpuinfo": "flags\t\t: fpu vmx sse2\n",
      "/proc/sys/net/ipv4/ip_forward": "0\n",
      "/proc/sys/net/ipv4/neigh/default/gc_thresh1": "128\n",
      "/proc/sys/net/ipv4/neigh/default/gc_thresh2": "512\n",
      "/proc/sys/net/ipv4/neigh/default/gc_thresh3": "1024\n",
      "/proc/sys/fs/file-max": "9223372036854775807\n",
      "/proc/sys/fs/inotify/max_user_instances": "128\n",
      "/proc/sys/fs/inotify/max_user_watches": "65536\n",
      ...options.files,
    };
    for (const [path, content] of Object.entries(files)) {
      await mkdir(dirname(join(root, path)), { recursive: true });
      await writeFile(join(root, path), content);
    }
    return new FakeHost(root, options);
  }

  /** Every file and link outside /proc and /sys, with its content. */
  async tree(): Promise<Record<string, string>> {
    const entries = await readdir(this.root, { recursive: true, withFileTypes: true });
    const found: [string, string][] = [];
    for (const entry of entries) {
      const file = join(entry.parentPath, entry.name);
      const path = file.slice(this.root.length);
      if (/^\/(proc|sys)\//.test(path) || entry.isDirectory()) continue;
      found.push([path, entry.isSymbolicLink() ? `-> ${await readlink(file)}` : await readFile(file, "utf8")]);
    }
    return Object.fromEntries(found.toSorted(([a], [b]) => a.localeCompare(b, "en")));
  }

  async sysctl(name: string): Promise<string> {
    return (await readFile(join(this.root, "proc/sys", name.replaceAll(".", "/")), "utf8")).trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.root, { recursive: true });
  }

  async #run(argv: Argv): Promise<Ran> {
    this.commands += 1;
    if (this.commands === this.failAt) return { code: 1, stdout: "", stderr: "made to fail" };
    const [program, ...args] = argv;
    const line = argv.join(" ");
    const result = await this.#answer(program, args);
    if (result === undefined) throw new Error(`the fake host does not know: ${line}`);
    if (result.changes === true) this.changes.push(line);
    return { code: result.code ?? 0, stdout: result.stdout ?? "", stderr: result.stderr ?? "" };
  }

  async #answer(program: string, args: readonly string[]): Promise<Answer | undefined> {
    switch (program) {
      case "/opt/opensandbox/opensandbox":
        if (args[1] === "--missing") return { stdout: this.packages.has("qemu-system-x86") ? "" : "qemu-system-x86\n" };
        if (args[1] === "certificate") {
          await this.system.write("/var/lib/opensandbox/tls/chain.pem", this.certificate ?? "");
          return { changes: true };
        }
        this.packages.add("qemu-system-x86").add("qemu-system-common");
        return { changes: true };
      case "dpkg-query":
        return { stdout: [...this.packages].map((name) => `${name} installed\n`).join("") };
      case "getent":
        return { code: this.users.has(args[1] ?? "") ? 0 : 2 };
      case "useradd":
        this.users.add(args.at(-1) ?? "");
        return { changes: true };
      case "userdel":
        this.users.delete(args.at(-1) ?? "");
        return { changes: true };
      case "env":
        if (args[0]?.startsWith("OPENSANDBOX_DATA_DIR=") === true) return await this.#makeToken(args);
        for (const name of args.slice(args.indexOf("install") + 1)) this.packages.add(name);
        return { changes: true };
      case "apt-mark":
        for (const name of args.slice(1)) this.automatic.add(name);
        return { changes: true };
      case "modprobe": {
        const name = args.at(-1) ?? "";
        if (args.length > 1 || !this.#modules.includes(name)) return { code: this.#modules.includes(name) ? 0 : 1 };
        await mkdir(join(this.root, "sys/module", name), { recursive: true });
        return { changes: true };
      }
      case "udevadm":
      case "nft":
      case "chmod":
        return { changes: true };
      case "sysctl":
        return await this.#setKernelValues(args);
      case "sshd":
        return { stdout: "port 2222\naddressfamily any\n" };
      case "systemctl":
        return this.#systemctl(args);
      default:
        return this.#answerAboutDisks(program, args);
    }
  }

  /** `osb fleet init` and `osb worker join` store the token of the fleet. */
  async #makeToken([variable = "", , noun]: readonly string[]): Promise<Answer> {
    const directory = join(this.root, variable.replace(/^\w+=/, ""));
    await mkdir(directory, { recursive: true });
    await writeFile(
      join(directory, "fleet-token"),
      noun === "fleet" ? "token of a new fleet\n" : "token that was given\n",
    );
    return { changes: true };
  }

  async #setKernelValues(args: readonly string[]): Promise<Answer> {
    const last = args.at(-1) ?? "";
    const text = args.includes("--load") ? await readFile(join(this.root, last), "utf8") : last;
    for (const [, name = "", value = ""] of text.matchAll(/^([\w.-]+) ?= ?(\S+)$/gm)) {
      await writeFile(join(this.root, "proc/sys", name.replaceAll(".", "/")), `${value}\n`);
    }
    return { changes: true };
  }

  #systemctl([verb = "", ...args]: readonly string[]): Answer | undefined {
    const unit = this.units.get(args.at(-1) ?? "") ?? { enabled: false, active: false };
    const set = (state: Partial<typeof unit>): Answer => {
      this.units.set(args.at(-1) ?? "", { ...unit, ...state });
      return { changes: true };
    };
    switch (verb) {
      case "--version":
        return { stdout: `systemd ${this.#systemdVersion} (${this.#systemdVersion}.1-1)\n+PAM +AUDIT\n` };
      case "is-enabled":
        return { code: unit.enabled ? 0 : 1 };
      case "is-active":
        return unit.active ? { stdout: "active\n" } : { code: 3, stdout: "inactive\n" };
      case "daemon-reload":
      case "clean":
        return { changes: true };
      case "enable":
        return set({ enabled: true, ...(args.includes("--now") ? { active: true } : {}) });
      case "start":
      case "restart":
        return set({ active: true });
      case "disable":
        return set({ enabled: false, active: false });
      default:
        return undefined;
    }
  }

  #answerAboutDisks(program: string, args: readonly string[]): Answer | undefined {
    const disk = this.disks.find(({ path }) => args.includes(path));
    const mountPoint = args.at(-1) ?? "";
    const mounted = this.disks.find(({ mountpoints }) => mountpoints?.includes(mountPoint));
    switch (program) {
      case "lsblk":
        return { stdout: JSON.stringify({ blockdevices: this.disks.map(asListed) }) };
      case "wipefs":
        return { stdout: disk?.signature === undefined ? "" : `${disk.signature}\n` };
      case "blkid":
        if (args.includes("UUID")) return disk?.fstype === "xfs" ? { stdout: "1234-abcd\n" } : { code: 2 };
        return { code: disk?.probed === true || disk?.signature !== undefined ? 0 : 2 };
      case "cmp":
        return { code: disk?.dirty === true ? 1 : 0 };
      case "mkfs.xfs":
        if (disk === undefined) return { code: 1, stderr: "no such device" };
        disk.fstype = "xfs";
        disk.label = args[args.indexOf("-L") + 1] ?? null;
        return { changes: true };
      case "findmnt":
        return { code: mounted === undefined ? 1 : 0 };
      case "mount": {
        const labelled = this.disks.find(({ label }) => label === "opensandbox");
        if (labelled === undefined) return { code: 32, stderr: "can't find the device" };
        labelled.mountpoints = [mountPoint];
        return { changes: true };
      }
      case "umount":
        if (mounted !== undefined) mounted.mountpoints = [];
        return { changes: true };
      default:
        return undefined;
    }
  }
}

interface Answer {
  readonly code?: number;
  readonly stdout?: string;
  readonly stderr?: string;
  readonly changes?: true;
}

/** A disk as lsblk prints it. */
function asListed({ path, size, ro, fstype, label, pttype, mountpoints, children }: FakeDisk): object {
  return {
    path,
    name: path.slice("/dev/".length),
    type: "disk",
    size: size ?? 500 * 2 ** 30,
    ro: ro ?? false,
    fstype: fstype ?? null,
    label: label ?? null,
    pttype: pttype ?? null,
    mountpoints: mountpoints ?? [null],
    ...(children === undefined ? {} : { children }),
  };
}
