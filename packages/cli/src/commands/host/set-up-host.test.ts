import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { suite, test } from "node:test";
import type { HostOptions } from "./options.ts";
import { checkHost, keptData, plannedRemoval, removeFromHost, setUpHost } from "./set-up-host.ts";
import { type FakeDisk, FakeHost, type FakeHostOptions } from "./testing/fake-host.ts";

const launcher = "/opt/opensandbox/opensandbox";
const never = new AbortController().signal;
const emptyDisk: FakeDisk = { path: "/dev/sdc" };
const systemDisk: FakeDisk = { path: "/dev/sda", pttype: "gpt", children: [{}], mountpoints: [null] };

async function setUp(host: FakeHost, options: Partial<HostOptions> = {}): Promise<string[]> {
  const done = await setUpHost({ system: host.system, launcher, options, onStep: () => undefined }, never);
  return done.flatMap(({ step, done }) => (done === undefined ? [] : [step]));
}

async function differences(host: FakeHost, options: Partial<HostOptions> = {}): Promise<string[]> {
  const findings = await checkHost({ system: host.system, launcher, options, program: "osb" });
  return findings.filter(({ state }) => state !== "ok").map(({ step }) => step);
}

async function removeAll(host: FakeHost): Promise<string[]> {
  const done = await removeFromHost({ system: host.system, launcher, onStep: () => undefined }, never);
  return (done ?? []).map(({ step, done }) => `${step}: ${done}`);
}

const everyStep = [
  "packages",
  "kernel modules",
  "devices",
  "kernel settings",
  "data disk",
  "command",
  "settings",
  "firewall",
  "service",
];

test("a set-up brings every step to the wanted state, and a second one changes nothing", async () => {
  await using host = await FakeHost.make({ disks: [systemDisk, emptyDisk] });
  assert.deepEqual(await differences(host, { firewall: true }), everyStep);
  assert.deepEqual(await setUp(host, { firewall: true }), everyStep);
  assert.deepEqual(await differences(host), []);
  const [tree, changes] = [await host.tree(), host.changes.length];
  assert.deepEqual(await setUp(host), []);
  assert.deepEqual(await host.tree(), tree);
  assert.deepEqual(host.changes.slice(changes), []);
  assert.deepEqual(host.units.get("opensandbox.service"), { enabled: true, active: true });
});

test("a removal says where data is left and how to delete it, and leaves no empty directory", async () => {
  await using host = await FakeHost.make({ disks: [systemDisk, emptyDisk] });
  await setUp(host);
  assert.deepEqual(await keptData(host.system), [{ place: "/dev/sdc", deletion: "wipefs --all /dev/sdc" }]);
  await removeAll(host);
  assert.equal(await host.system.exists("/var/lib/opensandbox"), false);
  assert.deepEqual(await keptData(host.system), []);

  await using plain = await FakeHost.make({ disks: [systemDisk] });
  await setUp(plain);
  assert.deepEqual(await keptData(plain.system), []);
  await plain.system.write("/var/lib/opensandbox/opensandbox.sqlite", "rows");
  assert.deepEqual(await keptData(plain.system), [
    { place: "/var/lib/opensandbox", deletion: "rm -r /var/lib/opensandbox" },
  ]);
  await removeAll(plain);
  assert.equal(await plain.system.read("/var/lib/opensandbox/opensandbox.sqlite"), "rows");
});

test("a prepared host has no service, and a set-up adds what is missing", async () => {
  await using host = await FakeHost.make({ disks: [systemDisk, emptyDisk] });
  const common = { system: host.system, launcher, options: {}, onStep: () => undefined };
  const prepared = await setUpHost({ ...common, onlyPrepare: true }, never);
  assert.deepEqual(
    prepared.map(({ step }) => step),
    everyStep.slice(0, 6),
  );
  assert.equal(host.units.get("opensandbox.service"), undefined);
  assert.deepEqual(await setUp(host), ["settings", "service"]);
});

test("a check changes nothing and names the remedy of each difference", async () => {
  await using host = await FakeHost.make({ disks: [emptyDisk] });
  const tree = await host.tree();
  const findings = await checkHost({ system: host.system, launcher, options: {}, program: "osb" });
  assert.deepEqual([await host.tree(), host.changes], [tree, []]);
  assert.ok(findings.every(({ state, fix }) => state === "different" && fix === "sudo osb host setup"));
});

test("a removal restores every file, keeps the data disk, and leaves packages to apt", async () => {
  const files = { "/etc/sysctl.d/60-opensandbox.conf": "# of an administrator\n" };
  await using host = await FakeHost.make({ disks: [emptyDisk], files });
  const before = await host.tree();
  await setUp(host, { firewall: true });
  assert.deepEqual(await plannedRemoval({ system: host.system, launcher }), everyStep.toReversed());
  await removeAll(host);
  assert.deepEqual(await host.tree(), before);
  assert.deepEqual(host.disks, [{ path: "/dev/sdc", fstype: "xfs", label: "opensandbox", mountpoints: [] }]);
  assert.deepEqual([...host.automatic].toSorted(), ["qemu-system-common", "qemu-system-x86", "xfsprogs"]);
  assert.equal(await host.sysctl("net.ipv4.ip_forward"), "0");
  assert.deepEqual(host.units.get("opensandbox.service"), { enabled: false, active: false });
  assert.deepEqual(await removeAll(host), []);
});

test("a set-up that fails at any command can be continued, and can be removed", async () => {
  await using whole = await FakeHost.make({ disks: [emptyDisk] });
  const before = await whole.tree();
  await setUp(whole, { firewall: true });
  const wanted = await whole.tree();
  let at = 1;
  for (; ; at += 1) {
    await using host = await FakeHost.make({ disks: [emptyDisk] });
    host.failAt = at;
    const failed = await setUp(host, { firewall: true }).then(
      () => false,
      (error: Error) => /made to fail/.test(error.message),
    );
    if (host.commands < at) break;
    await setUp(host, { firewall: true });
    assert.deepEqual(await differences(host), [], `set up again after a failure of command ${at}`);
    assert.deepEqual(Object.keys(await host.tree()), Object.keys(wanted));
    // Some commands only query the host, and their failure is an answer.
    if (!failed) continue;
    await using removed = await FakeHost.make({ disks: [emptyDisk] });
    removed.failAt = at;
    await assert.rejects(setUp(removed, { firewall: true }), /made to fail/);
    await removeAll(removed);
    assert.deepEqual(await removed.tree(), before, `removed after a failure of command ${at}`);
  }
  assert.ok(at > 40, `a set-up runs ${at - 1} commands`);
});

suite("the data disk", () => {
  const used: readonly (readonly [string, Omit<FakeDisk, "path">])[] = [
    ["a partition table", { pttype: "gpt" }],
    ["partitions", { children: [{}] }],
    ["a file system", { fstype: "ext4" }],
    ["a file system of XFS with another label", { fstype: "xfs", label: "backup" }],
    ["a RAID or LVM member", { fstype: "LVM2_member" }],
    ["a signature that udev has not seen", { signature: "linux_raid_member" }],
    ["a signature that only blkid knows", { probed: true }],
    ["a mount", { mountpoints: ["/mnt"] }],
    ["a write protection", { ro: true }],
  ];
  for (const [what, disk] of used) {
    test(`a disk with ${what} is never formatted, whether it is named or found`, async () => {
      await using host = await FakeHost.make({ disks: [{ path: "/dev/sdc", ...disk }] });
      const steps = await setUp(host);
      assert.ok(!steps.includes("data disk"));
      await assert.rejects(setUp(host, { dataDisk: "/dev/sdc" }), /cannot use \/dev\/sdc as the data disk: it /);
      assert.ok(!host.changes.some((line) => line.startsWith("mkfs")));
    });
  }

  for (const [what, disk] of [
    ["is smaller than 8 GiB", { path: "/dev/sdc", size: 4 * 2 ** 30 }],
    ["is a RAM disk", { path: "/dev/zram0" }],
    ["has data without a known signature", { path: "/dev/sdc", dirty: true }],
  ] as const) {
    test(`an unnamed disk that ${what} is left alone`, async () => {
      await using host = await FakeHost.make({ disks: [disk] });
      await setUp(host);
      assert.ok(!host.changes.some((line) => line.startsWith("mkfs")));
    });
  }

  test("the first empty disk gets XFS with reflinks and an entry of fstab by UUID", async () => {
    await using host = await FakeHost.make({ disks: [{ path: "/dev/sdd" }, systemDisk, emptyDisk] });
    await setUp(host);
    assert.ok(host.changes.includes("mkfs.xfs -q -m reflink=1 -L opensandbox /dev/sdc"));
    const { "/etc/fstab": fstab = "" } = await host.tree();
    assert.match(
      fstab,
      /^UUID=1 \/ ext4 .*\n# Data of OpenSandbox\nUUID=1234-abcd \/var\/lib\/opensandbox xfs \S*nofail\S* 0 0\n$/,
    );
  });

  test("the disk of an earlier installation is mounted again and not formatted", async () => {
    const earlier = { path: "/dev/sdc", fstype: "xfs", label: "opensandbox" };
    await using host = await FakeHost.make({ disks: [{ path: "/dev/sdb" }, earlier] });
    await setUp(host);
    assert.ok(!host.changes.some((line) => line.startsWith("mkfs")));
    assert.deepEqual(host.disks[1]?.mountpoints, ["/var/lib/opensandbox"]);
  });

  test("a data directory with content is not hidden by a mount", async () => {
    const files = { "/var/lib/opensandbox/opensandbox.sqlite": "rows" };
    await using host = await FakeHost.make({ disks: [emptyDisk], files });
    assert.ok(!(await setUp(host)).includes("data disk"));
    assert.deepEqual(await differences(host), ["data disk"]);
  });

  test("no disk is touched when none is wanted", async () => {
    await using host = await FakeHost.make({ disks: [emptyDisk] });
    await setUp(host, { dataDisk: "none" });
    assert.deepEqual(host.disks, [emptyDisk]);
  });
});

test("a kernel setting that is high enough is never lowered", async () => {
  await using host = await FakeHost.make({ files: { "/proc/sys/fs/inotify/max_user_watches": "1048576\n" } });
  await setUp(host);
  assert.equal(await host.sysctl("fs.file-max"), "9223372036854775807");
  assert.equal(await host.sysctl("fs.inotify.max_user_watches"), "1048576");
  const { "/etc/sysctl.d/60-opensandbox.conf": file = "" } = await host.tree();
  assert.doesNotMatch(file, /file-max|max_user_watches/);
});

test("a module that the kernel lacks is left out of the list for the boot, and the check says what is lost", async () => {
  await using host = await FakeHost.make({ modules: ["kvm_intel", "tun", "nf_tables"] });
  await setUp(host);
  const { "/etc/modules-load.d/opensandbox.conf": list = "" } = await host.tree();
  assert.deepEqual(list.match(/^\w+$/gm), ["kvm_intel", "tun", "nf_tables"]);
  const findings = await checkHost({ system: host.system, launcher, options: {}, program: "osb" });
  const [finding] = findings.filter(({ state }) => state !== "ok");
  assert.equal(finding?.state, "optional");
  assert.match(
    finding?.detail ?? "",
    /no module vhost_vsock: the agent channel uses virtio-serial; .*no module vhost_net/,
  );
});

test("a module that is built into the kernel counts as loaded", async () => {
  const files = {
    "/proc/sys/kernel/osrelease": "6.12.0-test\n",
    "/lib/modules/6.12.0-test/modules.builtin": "kernel/drivers/net/tun.ko\nkernel/drivers/vhost/vhost-vsock.ko\n",
  };
  await using host = await FakeHost.make({ files, modules: ["kvm_intel", "vhost_net", "nf_tables"] });
  await setUp(host);
  assert.deepEqual(await differences(host), []);
  assert.ok(!host.changes.some((line) => /^modprobe (tun|vhost_vsock)$/.test(line)));
});

for (const [flag, module] of [
  ["vmx", "kvm_intel"],
  ["svm", "kvm_amd"],
] as const) {
  test(`a processor with ${flag} loads ${module}`, async () => {
    const files = { "/proc/cpuinfo": `flags\t\t: fpu ${flag}\n` };
    await using host = await FakeHost.make({
      files,
      modules: [module, "vhost_vsock", "vhost_net", "tun", "nf_tables"],
    });
    await setUp(host);
    assert.ok(host.changes.includes(`modprobe ${module}`));
  });
}

test("devices are never open to every user", async () => {
  await using host = await FakeHost.make({ files: { "/dev/kvm": "" } });
  await setUp(host);
  const { "/etc/udev/rules.d/99-opensandbox.rules": rules = "" } = await host.tree();
  assert.equal(rules.match(/MODE="0660"/g)?.length, 3);
  assert.ok((await stat(join(host.root, "dev/kvm"))).mode & 0o004);
  assert.deepEqual(await differences(host), ["devices"]);
});

test("the firewall allows every port of ssh, and the server's only if it serves other hosts", async () => {
  const rulesWith = async (settings: Record<string, string>): Promise<string> => {
    await using host = await FakeHost.make();
    await setUp(host, { firewall: true, settings });
    return (await host.tree())["/etc/opensandbox/firewall.nft"] ?? "";
  };
  assert.match(await rulesWith({}), /tcp dport \{ 22, 2222 \} accept/);
  const open = { OPENSANDBOX_HOST: "0.0.0.0", OPENSANDBOX_PORT: "443" };
  assert.match(await rulesWith(open), /tcp dport \{ 22, 443, 2222 \} accept/);
});

const skip = process.getuid?.() === 0 ? false : "only root can make a network namespace";
test("the kernel accepts the firewall's rules, even in place of earlier ones", { skip }, async () => {
  await using host = await FakeHost.make();
  await setUp(host, { firewall: true });
  const file = join(host.root, "etc/opensandbox/firewall.nft");
  const load = 'nft --file "$0" && nft --file "$0" && nft list ruleset';
  const { status, stdout, stderr } = spawnSync("unshare", ["--net", "sh", "-c", load, file], { encoding: "utf8" });
  assert.equal(status, 0, stderr);
  assert.equal(stdout.match(/tcp dport \{ 22, 2222 \} accept/g)?.length, 1);
});

test("a set-up keeps the operator's settings and changes those that its options name", async () => {
  await using host = await FakeHost.make();
  await setUp(host, { settings: { OPENSANDBOX_PORT: "80" } });
  const file = join(host.root, "etc/opensandbox/server.env");
  await writeFile(file, `${await readFile(file, "utf8")}OPENSANDBOX_READY_MACHINES=5\n`);
  assert.deepEqual(await differences(host), []);
  assert.deepEqual(await setUp(host, { settings: { OPENSANDBOX_PORT: "81" } }), ["settings"]);
  const text = await readFile(file, "utf8");
  assert.match(text, /^OPENSANDBOX_READY_MACHINES=5\nOPENSANDBOX_PORT=81$/m);
  assert.doesNotMatch(text, /=80$/m);
  assert.equal((await stat(file)).mode & 0o777, 0o600);
});

test("a file that was edited after the set-up survives the removal", async () => {
  await using host = await FakeHost.make();
  await setUp(host);
  const file = join(host.root, "etc/opensandbox/server.env");
  await writeFile(file, "OPENSANDBOX_PORT=9000\n", { flag: "a" });
  const done = await removeAll(host);
  assert.ok(
    done.includes("settings: kept /etc/opensandbox/server.env, which was edited after the set-up"),
    done.join("\n"),
  );
  assert.match(await readFile(file, "utf8"), /OPENSANDBOX_PORT=9000/);
});

suite("a node of a fleet", () => {
  const join = "https://10.0.0.1:8443";

  test("a server gets a user and a token, and nothing for machines", async () => {
    await using host = await FakeHost.make();
    const before = await host.tree();
    const steps = await setUp(host, { role: "server", firewall: true });
    const expected = ["kernel settings", "command", "user", "settings", "fleet", "firewall", "service"];
    assert.deepEqual(steps, expected);
    assert.deepEqual(await differences(host), []);
    assert.deepEqual(host.units.get("opensandbox-server.service"), { enabled: true, active: true });
    assert.ok(host.users.has("opensandbox"));
    const token = "/var/lib/opensandbox/fleet-token";
    const { [token]: made = "", ...tree } = await host.tree();
    assert.equal(made, "token of a new fleet\n");
    assert.match(tree["/etc/opensandbox/firewall.nft"] ?? "", /tcp dport \{ 22, 2222, 8443 \} accept/);
    await removeAll(host);
    assert.deepEqual(await host.tree(), { ...before, [token]: made });
    assert.ok(!host.users.has("opensandbox"));
  });

  test("a user opensandbox of the administrator outlives the removal", async () => {
    await using host = await FakeHost.make();
    host.users.add("opensandbox");
    await setUp(host, { role: "server" });
    await removeAll(host);
    assert.ok(host.users.has("opensandbox"));
  });

  test("a worker joins before its service starts, and a later set-up joins no more", async () => {
    await using host = await FakeHost.make();
    await assert.rejects(setUp(host, { role: "worker" }), /a worker needs the server of its fleet: .*--join https/);
    assert.equal(host.units.get("opensandbox-worker.service"), undefined);
    const done = await setUp(host, { join });
    assert.deepEqual(done, ["fleet", "service"]);
    const joined = `env OPENSANDBOX_DATA_DIR=/var/lib/opensandbox ${launcher} worker join ${join}`;
    const started = host.changes.indexOf("systemctl restart opensandbox-worker.service");
    assert.ok(host.changes.indexOf(joined) !== -1 && host.changes.indexOf(joined) < started, host.changes.join("\n"));
    assert.deepEqual(await setUp(host), []);
  });

  test("another role replaces the service of the earlier one", async () => {
    await using host = await FakeHost.make();
    await setUp(host);
    await setUp(host, { role: "worker", join });
    assert.deepEqual(host.units.get("opensandbox.service"), { enabled: false, active: false });
    assert.deepEqual(host.units.get("opensandbox-worker.service"), { enabled: true, active: true });
    const units = Object.keys(await host.tree()).filter((path) => path.startsWith("/etc/systemd/"));
    assert.deepEqual(units, ["/etc/systemd/system/opensandbox-worker.service"]);
  });

  test("the record of a release without roles means both in one process", async () => {
    await using host = await FakeHost.make();
    await setUp(host);
    const file = "/etc/opensandbox/setup.json";
    const record = JSON.parse((await host.system.read(file)) ?? "") as { options: Partial<HostOptions> };
    const { role: _, ...options } = record.options;
    await host.system.write(file, JSON.stringify({ ...record, options }));
    assert.deepEqual(await differences(host), []);
    assert.deepEqual(host.units.get("opensandbox.service"), { enabled: true, active: true });
  });
});

test("a command osb of another program is kept", async () => {
  await using host = await FakeHost.make({ files: { "/usr/local/bin/osb": "#!/bin/sh\n" } });
  await assert.rejects(setUp(host), /\/usr\/local\/bin\/osb belongs to another program/);
  assert.equal(await readFile(join(host.root, "usr/local/bin/osb"), "utf8"), "#!/bin/sh\n");
});

test("a changed unit restarts the service, and an unchanged one does not", async () => {
  await using host = await FakeHost.make();
  await setUp(host);
  host.units.set("opensandbox.service", { enabled: true, active: false });
  host.changes.length = 0;
  await setUp(host);
  assert.ok(host.changes.includes("systemctl start opensandbox.service"));
  await writeFile(join(host.root, "etc/systemd/system/opensandbox.service"), "[Unit]\n");
  await setUp(host);
  assert.ok(host.changes.includes("systemctl restart opensandbox.service"));
});

for (const [version, delegates] of [
  [252, false],
  [255, true],
] as const) {
  test(`systemd ${version}: the unit ${delegates ? "delegates its cgroup" : "leaves cgroups to the worker"}`, async () => {
    await using host = await FakeHost.make({ systemdVersion: version });
    await setUp(host);
    const { "/etc/systemd/system/opensandbox.service": unit = "" } = await host.tree();
    assert.equal(unit.includes("Delegate=yes\nDelegateSubgroup=server\n"), delegates);
  });
}

const refused: readonly (readonly [string, FakeHostOptions, RegExp])[] = [
  [
    "another distribution",
    { files: { "/etc/os-release": 'PRETTY_NAME="Fedora Linux 43"\nID=fedora\nVERSION_ID=43\n' } },
    /this host runs Fedora Linux 43/,
  ],
  [
    "an older release",
    { files: { "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 11"\nID=debian\nVERSION_ID="11"\n' } },
    /Debian GNU\/Linux 11; the set-up knows Debian 12 and 13, and Ubuntu 24\.04/,
  ],
];
for (const [what, options, message] of refused) {
  test(`${what} is refused before any change`, async () => {
    await using host = await FakeHost.make(options);
    const tree = await host.tree();
    await assert.rejects(setUp(host), message);
    assert.deepEqual([await host.tree(), host.changes], [tree, []]);
  });
}

test("a damaged record is reported, never overwritten", async () => {
  await using host = await FakeHost.make();
  await mkdir(join(host.root, "etc/opensandbox"), { recursive: true });
  await writeFile(join(host.root, "etc/opensandbox/setup.json"), "{");
  await assert.rejects(setUp(host), /cannot read \/etc\/opensandbox\/setup\.json/);
  assert.equal(await readFile(join(host.root, "etc/opensandbox/setup.json"), "utf8"), "{");
});
