import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { access, chmod, chown, mkdtemp, readdir, readFile, readlink, rename, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { Sandbox } from "@opencomputer/sdk";
import { readConfig } from "@opensandbox/server";
import { machineProcesses } from "./machine-processes.ts";
import { startWorld, type World } from "./world.ts";

const repository = join(import.meta.dirname, "../..");

const processorRunsGuests = /^flags\s*:.* (vmx|svm) /m.test(await readFile("/proc/cpuinfo", "utf8"));
const mayOpen = await access("/dev/kvm", 6).then(
  () => true,
  () => false,
);
const skip = processorRunsGuests && mayOpen ? false : "this host has no KVM; ./test kvm emulates one that has";
/** The emulated host has a user in the group of /dev/kvm (`member`) and one outside it (`stranger`). */
const skipUsers = process.env["OPENSANDBOX_KVM_HOST"] === "1" ? false : "needs the users of the emulated KVM host";

suite("under KVM", { skip }, () => {
  let world: World;
  let sandbox: Sandbox;
  const options = () => ({ apiUrl: world.url, apiKey: world.apiKey });

  before(async () => {
    world = await startWorld({ OPENSANDBOX_ACCEL: "kvm", OPENSANDBOX_READY_MACHINES: "0" });
    sandbox = await Sandbox.create({ ...options(), template: "minimal", timeout: 3600 });
  });
  after(() => world?.[Symbol.asyncDispose]());

  async function run(command: string, on = sandbox): Promise<string> {
    const { exitCode, stdout, stderr } = await on.commands.run(command, { timeout: 300 });
    assert.equal(exitCode, 0, `${command}: ${stdout}${stderr}`);
    return stdout.trimEnd();
  }

  async function machineOf(directory: string): Promise<number> {
    const [pid = assert.fail("no machine runs"), ...others] = await machineProcesses(directory);
    assert.deepEqual(others, []);
    return pid;
  }

  test("QEMU runs as a user without rights and gets /dev/kvm by a descriptor alone", async () => {
    const pid = await machineOf(world.config.dataDirectory);
    const status = await readFile(`/proc/${pid}/status`, "utf8");
    const field = (name: string): string => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1]?.trim() ?? "";
    const { uid, gid, mode } = await stat("/dev/kvm");
    assert.equal(mode & 0o007, 0);
    if (process.getuid?.() === 0) {
      const user = Number(field("Uid").split(/\s/)[0]);
      assert.ok(user >= 1_900_000_000 && user !== uid, field("Uid"));
      assert.ok(![field("Gid"), field("Groups")].join(" ").split(/\s+/).includes(`${gid}`));
      assert.deepEqual([field("CapEff"), field("CapPrm")], ["0000000000000000", "0000000000000000"]);
    }
    const line = (await readFile(`/proc/${pid}/cmdline`, "utf8")).split("\0");
    assert.ok(line.includes("kvm,device=/dev/fdset/1"), line.join(" "));
    const folder = `/proc/${pid}/fd`;
    const open = await Promise.all((await readdir(folder)).map(async (fd) => await readlink(join(folder, fd))));
    const devices = new Set(open.filter((file) => file.startsWith("/dev/")));
    assert.deepEqual([...devices].toSorted(), ["/dev/kvm", "/dev/net/tun", "/dev/null", "/dev/urandom"]);
    assert.ok(open.includes("anon_inode:kvm-vm"), open.join(" "));
  });

  test("a command runs in a guest that detects KVM, and its clock is the host's", async () => {
    const clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    assert.match(await run(`cat ${clock}`), /^(kvm-clock|tsc)$/);
    const skew = Math.abs(Number(await run("date +%s")) - Date.now() / 1000);
    assert.ok(skew < 10, `${skew} s`);
  });

  test("files are written and read, including files of several megabytes", async () => {
    await sandbox.files.write("/workspace/note", "first");
    assert.equal(await sandbox.files.read("/workspace/note"), "first");
    const bytes = new Uint8Array(4 * 2 ** 20).map((_, index) => (index * 31) % 251);
    await sandbox.files.write("/workspace/large", bytes);
    const read = await sandbox.files.readBytes("/workspace/large");
    assert.ok(Buffer.from(bytes).equals(Buffer.from(read)));
  });

  test("a sandbox is hibernated and woken with its processes, and its clock is right", async () => {
    await run("(setsid sleep 100000 >/dev/null 2>&1 &)");
    const pid = await run("pgrep -x sleep");
    await sandbox.hibernate();
    assert.deepEqual(await machineProcesses(world.config.dataDirectory), []);
    await sandbox.wake({ timeout: 3600 });
    assert.equal(await run("pgrep -x sleep; cat /workspace/note"), `${pid}\nfirst`);
    const skew = Math.abs(Number(await run("date +%s")) - Date.now() / 1000);
    assert.ok(skew < 10, `${skew} s`);
  });

  test("a checkpoint is forked twice at once and restored in place, with its processes", async () => {
    const pid = await run("pgrep -x sleep");
    const { id } = await sandbox.createCheckpoint("first");
    for (const until = Date.now() + 300_000; ; await sleep(500)) {
      const { status } = (await sandbox.listCheckpoints()).find((checkpoint) => checkpoint.id === id) ?? {};
      if (status === "ready") break;
      assert.ok(status === "processing" && Date.now() < until, `the checkpoint is ${status}`);
    }
    await run("echo second > /workspace/note; pkill -x sleep");
    const forks = await Promise.all([1, 2].map(() => Sandbox.createFromCheckpoint(id, options())));
    const seen = await Promise.all(forks.map((fork) => run("pgrep -x sleep; cat /workspace/note", fork)));
    assert.deepEqual(seen, [`${pid}\nfirst`, `${pid}\nfirst`]);
    await Promise.all(forks.map((fork) => fork.kill()));
    assert.equal(await run("cat /workspace/note"), "second");
    await sandbox.restoreCheckpoint(id);
    assert.equal(await run("pgrep -x sleep; cat /workspace/note"), `${pid}\nfirst`);
  });

  test("a host that loses /dev/kvm refuses a sandbox instead of emulating it", { skip: skipUsers }, async () => {
    const before = await machineProcesses(world.config.dataDirectory);
    await rename("/dev/kvm", "/dev/kvm.away");
    try {
      const refused = /501 .*Cannot open \/dev\/kvm \(ENOENT\)\. \.\/opensandbox doctor/;
      await assert.rejects(Sandbox.create({ ...options(), template: "minimal" }), refused);
    } finally {
      await rename("/dev/kvm.away", "/dev/kvm");
    }
    assert.deepEqual(await machineProcesses(world.config.dataDirectory), before);
    assert.equal(await run("cat /workspace/note"), "first");
  });

  test("the accelerator is probed once, and the outcome is kept", async () => {
    const text = await readFile(join(world.config.dataDirectory, "accelerator-probe.json"), "utf8");
    assert.match((JSON.parse(text) as { detail: string }).detail, /^a probe guest ran in \d+ ms$/);
  });
});

suite("the command line under KVM, by user", { skip: skip || skipUsers }, () => {
  /** Runs the launcher as a user with a data directory of its own and the images of this host. */
  async function launch(user: string, env: Readonly<Record<string, string>>, ...args: readonly string[]) {
    const { imagesDirectory } = readConfig(process.env);
    const directory = await mkdtemp(join(tmpdir(), `osb-${user}-`));
    try {
      const id = async (flag: string) => Number((await promisify(execFile)("id", [flag, user])).stdout);
      await chmod(directory, 0o711);
      await chown(directory, await id("-u"), await id("-g"));
      const as = ["--reuid", user, "--regid", `${await id("-g")}`, "--init-groups", "--"];
      const own = { HOME: directory, OPENSANDBOX_DATA_DIR: directory, OPENSANDBOX_IMAGES_DIR: imagesDirectory };
      const { PATH = "" } = process.env;
      const options = { cwd: repository, env: { PATH, ...own, ...env }, timeout: 900_000 };
      return await promisify(execFile)("setpriv", [...as, "./opensandbox", ...args], options).then(
        ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
        ({ code, stdout, stderr }: { code: number; stdout: string; stderr: string }) => ({ code, stdout, stderr }),
      );
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }

  const uname = ["run", "--image", "minimal", "--", "uname", "-a"] as const;
  const { templatesDirectory } = readConfig(process.env);

  test("root runs a command, with Debian's mode of /dev/kvm", async () => {
    assert.equal((await stat("/dev/kvm")).mode & 0o777, 0o660);
    const env = { OPENSANDBOX_ACCEL: "kvm", OPENSANDBOX_TEMPLATES_DIR: templatesDirectory };
    const { code, stdout, stderr } = await launch("root", env, ...uname);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^Linux sandbox .*x86_64 GNU\/Linux$/m);
  });

  test("a user of the device's group runs a command", async () => {
    const { code, stdout, stderr } = await launch("member", { OPENSANDBOX_ACCEL: "kvm" }, ...uname);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^Linux sandbox .*x86_64 GNU\/Linux$/m);
  });

  test("a user outside the group is refused KVM with a command to run, and doctor says that TCG takes its place", async () => {
    const line = "sudo usermod -aG kvm stranger, then log in again";
    const refused = await launch("stranger", { OPENSANDBOX_ACCEL: "kvm" }, ...uname);
    assert.notEqual(refused.code, 0);
    assert.ok(refused.stderr.includes(line), refused.stderr);
    assert.ok(refused.stderr.includes("user stranger may not open /dev/kvm (mode 0660, group kvm)"), refused.stderr);
    const doctor = await launch("stranger", {}, "doctor");
    assert.match(doctor.stdout, /warn +accelerator +tcg: .*; under tcg a probe guest ran in \d+ ms/);
    assert.ok(doctor.stdout.includes(line), doctor.stdout);
  });
});
