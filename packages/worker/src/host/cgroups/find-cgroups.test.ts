import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { examineCgroups } from "../../examine-host.ts";
import { type CgroupsOfProcess, type FoundCgroups, findCgroups } from "./find-cgroups.ts";

interface FakeHost {
  /** Lines of mountinfo, from the cgroup at the mount point to the options; `$` stands for the host's directory. */
  readonly mounts: readonly string[];
  readonly memberships: readonly string[];
  /** Files by path. Each directory of one is a cgroup. */
  readonly files: Readonly<Record<string, string>>;
}

async function findOn(host: FakeHost, options: CgroupsOfProcess): Promise<FoundCgroups> {
  return await onHost(host, options, findCgroups);
}

/** The result of an examination, with `$` for the host's directory. */
async function onHost<Result>(
  host: FakeHost,
  options: CgroupsOfProcess,
  examine: (options: CgroupsOfProcess) => Promise<Result>,
): Promise<Result> {
  const directory = await mkdtemp(join(tmpdir(), "osb-cgroups-"));
  try {
    const write = async (name: string, text: string): Promise<void> => {
      const path = join(directory, name);
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, text);
    };
    await write("mountinfo", host.mounts.map((line) => `30 25 0:26 ${line.replace("$", directory)}\n`).join(""));
    await write("cgroup", host.memberships.map((line) => `${line}\n`).join(""));
    for (const [path, text] of Object.entries(host.files)) await write(path, text);
    const result = await examine({ proc: directory, isDelegated: () => false, ...options });
    return JSON.parse(JSON.stringify(result).replaceAll(directory, "$")) as Result;
  } finally {
    await rm(directory, { recursive: true });
  }
}

const second = "/ $/sys rw,relatime - cgroup2 cgroup2 rw,nsdelegate";
const all = "cpuset cpu io memory pids\n";

test("v1 hierarchies are used below this process's own cgroup in each", async () => {
  const mounts = [
    "/ $/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    "/ $/memory rw - cgroup cgroup rw,memory",
    "/ $/systemd rw - cgroup cgroup rw,xattr,name=systemd",
    "/ $/unified rw - cgroup2 cgroup2 rw",
  ];
  const memberships = ["5:cpu,cpuacct:/", "4:memory:/services/a", "1:name=systemd:/init", "0::/"];
  const files = {
    "cpu,cpuacct/cgroup.procs": "",
    "memory/services/a/cgroup.procs": "",
    "unified/cgroup.procs": "",
    "unified/cgroup.controllers": "\n",
  };
  assert.deepEqual(await findOn({ mounts, memberships, files }, { root: true, systemd: false }), {
    hierarchies: [
      { version: 1, mountPoint: "$/cpu,cpuacct", base: "$/cpu,cpuacct", controllers: ["cpu"], accounting: true },
      { version: 1, mountPoint: "$/memory", base: "$/memory/services/a", controllers: ["memory"], accounting: false },
    ],
    missing: ["io", "pids"],
  });
});

test("a delegated v2 cgroup is used without root, and its processes move to a leaf", async () => {
  const files = {
    "sys/cgroup.procs": "",
    "sys/system.slice/osb.service/cgroup.procs": "",
    "sys/system.slice/osb.service/cgroup.type": "domain\n",
    "sys/system.slice/osb.service/cgroup.controllers": "cpu memory pids\n",
  };
  const host = { mounts: [second], memberships: ["0::/system.slice/osb.service"], files };
  const isDelegated = (path: string): boolean => path.endsWith("osb.service");
  const base = "$/sys/system.slice/osb.service";
  const controllers = ["memory", "cpu", "pids"];
  assert.deepEqual(await findOn(host, { root: false, systemd: true, isDelegated }), {
    hierarchies: [{ version: 2, mountPoint: "$/sys", base, controllers, accounting: true, leaf: `${base}/server` }],
    missing: ["io"],
  });
});

test("a server in the leaf of a delegated cgroup uses the cgroup above", async () => {
  const files = {
    "sys/osb.service/cgroup.procs": "",
    "sys/osb.service/cgroup.type": "domain\n",
    "sys/osb.service/cgroup.controllers": all,
    "sys/osb.service/server/cgroup.procs": "",
  };
  const host = { mounts: [second], memberships: ["0::/osb.service/server"], files };
  const isDelegated = (path: string): boolean => path.endsWith("osb.service");
  const found = await findOn(host, { root: false, systemd: true, isDelegated });
  assert.deepEqual("missing" in found && [found.hierarchies[0].base, found.missing], ["$/sys/osb.service", []]);
});

test("root uses the top of the v2 hierarchy where systemd has delegated nothing", async () => {
  const files = {
    "sys/cgroup.procs": "",
    "sys/cgroup.controllers": all,
    "sys/user.slice/session-1.scope/cgroup.procs": "",
    "sys/user.slice/session-1.scope/cgroup.type": "domain\n",
    "sys/user.slice/session-1.scope/cgroup.controllers": "memory pids\n",
  };
  const host = { mounts: [second], memberships: ["0::/user.slice/session-1.scope"], files };
  const found = await findOn(host, { root: true, systemd: true });
  assert.deepEqual("missing" in found && found.hierarchies.map(({ base, leaf }) => [base, leaf]), [
    ["$/sys", undefined],
  ]);
  const refused = await findOn(host, { root: false, systemd: true });
  assert.deepEqual(refused, {
    hierarchies: [],
    reason: "without root, a server makes cgroups only below one that was delegated to it",
    fix: "run the server as root, or as a systemd unit with Delegate=yes and DelegateSubgroup=server",
  });
});

test("a container with a cgroup namespace uses its own root and moves its processes to a leaf", async () => {
  const files = { "sys/cgroup.procs": "", "sys/cgroup.type": "domain\n", "sys/cgroup.controllers": all };
  const host = { mounts: [second], memberships: ["0::/"], files };
  const found = await findOn(host, { root: true, systemd: false });
  assert.deepEqual("missing" in found && found.hierarchies.map(({ base, leaf }) => [base, leaf]), [
    ["$/sys", "$/sys/server"],
  ]);
});

test("a host without controllers, or without cgroups, says so", async () => {
  const files = { "sys/cgroup.procs": "", "sys/cgroup.controllers": "\n" };
  const empty = await findOn({ mounts: [second], memberships: ["0::/"], files }, { root: true, systemd: false });
  assert.match("reason" in empty ? empty.reason : "", /cannot write to a cgroup hierarchy with a memory/);
  const none = await findOn({ mounts: [], memberships: ["0::/"], files: {} }, { root: true, systemd: false });
  assert.deepEqual(none, {
    hierarchies: [],
    reason: "this host has no cgroup file system mounted",
    fix: "mount cgroup2 on /sys/fs/cgroup",
  });
});

test("doctor names what is limited, and what a host without controllers lacks", async () => {
  const withAll = { "sys/cgroup.procs": "", "sys/cgroup.controllers": all };
  const host = { mounts: [second], memberships: ["0::/"], files: withAll };
  const found = await onHost(host, { root: true, systemd: false }, examineCgroups);
  assert.deepEqual([found.level, found.fix], ["ok", undefined]);
  assert.match(found.detail, /^memory, cpu, io, pids of each machine \(cgroup v2 below \$\/sys\)/);

  const withTwo = { "sys/cgroup.procs": "", "sys/cgroup.controllers": "memory pids\n" };
  const some = await onHost({ ...host, files: withTwo }, { root: true, systemd: false }, examineCgroups);
  assert.equal(some.level, "warn");
  assert.match(some.detail, /; not limited: cpu, io$/);

  const none = await onHost({ ...host, files: withAll }, { root: false, systemd: true }, examineCgroups);
  assert.deepEqual(none, {
    name: "cgroups",
    level: "warn",
    detail:
      "none, so that one machine can starve the others: without root, a server makes cgroups only below one that was delegated to it",
    fix: "run the server as root, or as a systemd unit with Delegate=yes and DelegateSubgroup=server",
  });
});
