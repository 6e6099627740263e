import assert from "node:assert/strict";
import { access, chmod, mkdtemp, readdir, readFile, realpath, rename, rm, stat } from "node:fs/promises";
import { request as startRequest } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { readConfig } from "@opensandbox/server";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { examineVsock } from "../../packages/worker/src/host/examine-vsock.ts";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";
import { processorFeature } from "../../packages/worker/src/hypervisor/kvm-access.ts";
import { readEntries } from "../../packages/worker/src/machine/journal.ts";
import { slotNames } from "../../packages/worker/src/network/address-plan.ts";
import { queueCommands } from "../../packages/worker/src/network/link-commands.ts";
import { defaultLimits } from "../../packages/worker/src/network/namespace-rules.ts";
import { greet } from "../../packages/worker/src/network/testing/internet.ts";
import { answerOf } from "./answer-of.ts";
import { assertNoRights, openFiles, statusOf } from "./confinement.ts";
import { machineProcesses } from "./machine-processes.ts";
import { makeFetchPatient } from "./patient-fetch.ts";
import { startSite } from "./site.ts";
import { endServer, type SpawnedServer, spawnServerOn } from "./spawn-server.ts";

const root = process.getuid?.() === 0;
const processorRunsGuests = processorFeature(await readFile("/proc/cpuinfo", "utf8")) !== undefined;
const mayOpen = await access("/dev/kvm", 6).then(
  () => true,
  () => false,
);
const skip = processorRunsGuests && mayOpen ? false : "this host has no KVM; ./test kvm emulates one that has";
const skipNetwork = root ? false : "network namespaces need root";
const hasVsock = examineVsock().usable;
/** A test may take devices away from the emulated host only. */
const skipDevices = process.env["OPENSANDBOX_KVM_HOST"] === "1" ? false : "takes /dev/kvm away from the host";

/** A KVM host that is emulated in software may share its processors with other work. */
const patience = { withinMs: 900_000, everyMs: 500 };

// One server and one sandbox for the tests in order: on an emulated host every start of a process takes seconds.
suite(hasVsock ? "under KVM, over vsock" : "under KVM", { skip }, () => {
  const stack = new AsyncDisposableStack();
  let directory: string;
  let server: SpawnedServer;
  let sandbox: Sandbox;
  const apiKey = "key-of-the-test";
  const options = () => ({ apiUrl: server.url, apiKey });
  const logged: string[] = [];
  /** Stays in the sandbox from the first test to the last. */
  let sleeper: string;

  async function startServer(): Promise<void> {
    server = await spawnServerOn(directory, {
      stays: true,
      onLog(line) {
        logged.push(line);
        process.stderr.write(`${line}\n`);
      },
      env: {
        OPENSANDBOX_ACCEL: "kvm",
        OPENSANDBOX_API_KEY: apiKey,
        OPENSANDBOX_DEFAULT_SANDBOX_MEMORY_MB: "512",
        OPENSANDBOX_READY_MACHINES: "0",
      },
    });
  }

  before(async () => {
    await makeFetchPatient();
    directory = await mkdtemp(join(tmpdir(), "osb-kvm-"));
    await chmod(directory, 0o711);
    stack.defer(() => rm(directory, { recursive: true, force: true }));
    stack.defer(async () => {
      for (const pid of await machineProcesses(directory)) process.kill(pid, "SIGKILL");
    });
    await startServer();
    stack.defer(async () => void (await endServer(server.process, "SIGKILL")));
    sandbox = await Sandbox.create({ ...options(), template: "minimal", timeout: 7200 });
    await sandbox.files.write("/workspace/note", "first");
    await run("(setsid sleep 100000 >/dev/null 2>&1 &)");
    sleeper = await run("pgrep -x sleep");
  });
  after(() => stack.disposeAsync());

  async function run(command: string, on = sandbox): Promise<string> {
    const { exitCode, stdout, stderr } = await on.commands.run(command, { timeout: 300 });
    assert.equal(exitCode, 0, `${command}: ${stdout}${stderr}`);
    return stdout.trimEnd();
  }

  async function ask(method: string, path: string, body?: object): Promise<Record<string, unknown>> {
    const response = await fetch(`${server.url}/api/sandboxes/${sandbox.sandboxId}${path}`, {
      method,
      headers: { "X-API-Key": apiKey },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const reply = await response.text();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${reply}`);
    return JSON.parse(reply) as Record<string, unknown>;
  }

  async function machine(): Promise<number> {
    const [pid = assert.fail("no machine runs"), ...others] = await machineProcesses(directory);
    assert.deepEqual(others, []);
    return pid;
  }

  const guestSeconds = async (on: Sandbox): Promise<number> => Number(await run("date +%s.%N", on));

  /**
   * Asserts that the first command sees a clock that was set after `since`, the start of a wake or fork, and that the
   * clock becomes right. No bound depends on the speed of this host.
   */
  async function assertClock(since: number, on: Sandbox): Promise<void> {
    const first = await guestSeconds(on);
    assert.ok(since - 0.05 <= first && first <= seconds() + 0.05, `${since} <= ${first} <= ${seconds()}`);
    const isAligned = async (): Promise<boolean> => {
      const asked = seconds();
      const clock = await guestSeconds(on);
      return asked - 0.05 <= clock && clock <= seconds() + 0.05;
    };
    await eventually("the clock of the guest is aligned", isAligned, patience);
  }

  test("QEMU runs as a user without rights, with every descriptor that it was handed and no other", async () => {
    const pid = await machine();
    const field = await statusOf(pid);
    const { uid, gid, mode } = await stat("/dev/kvm");
    assert.equal(mode & 0o007, 0);
    await assertNoRights(pid);
    if (root) {
      const user = Number(field("Uid").split(/\s/)[0]);
      assert.ok(user >= 1_900_000_000 && user !== uid, field("Uid"));
      assert.ok(![field("Gid"), field("Groups")].join(" ").split(/\s+/).includes(`${gid}`));
    }
    const line = (await readFile(`/proc/${pid}/cmdline`, "utf8")).split("\0");
    assert.ok(line.includes("kvm,device=/dev/fdset/1"), line.join(" "));
    const opened = await openFiles(pid);
    const network = root ? ["/dev/net/tun", "/dev/vhost-net"] : [];
    const devices = new Set(opened.filter((file) => file.startsWith("/dev/")));
    const vsock = hasVsock ? ["/dev/vhost-vsock"] : [];
    const expected = ["/dev/kvm", "/dev/null", "/dev/urandom", ...network, ...vsock];
    assert.deepEqual([...devices].toSorted(), expected.toSorted());
    const folder = join(await realpath(directory), "machines", (await readdir(join(directory, "machines")))[0] ?? "");
    const sockets = new Set(opened.filter((file) => file.endsWith(".sock")));
    assert.deepEqual([...sockets].toSorted(), [join(folder, "agent.sock"), join(folder, "qmp.sock")]);
    const kernel =
      /^anon_inode:(\[(eventfd|eventpoll|signalfd|timerfd|io_uring)\]|kvm-(vm|vcpu:\d+|vcpu-stats:\d+|vm-stats|device.*))$/;
    const { imagesDirectory } = readConfig(process.env);
    // A machine's files are links into the caches.
    const own = [folder, join(directory, "templates"), imagesDirectory].map((parent) => `${parent}/`);
    const unexpected = opened.filter(
      (file) => !devices.has(file) && !kernel.test(file) && !own.some((parent) => file.startsWith(parent)),
    );
    assert.deepEqual(unexpected, []);
  });

  test("a command runs in a guest on KVM's clock", async () => {
    const clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    assert.match(await run(`cat ${clock}`), /^(kvm-clock|tsc)$/);
  });

  test("an idle sandbox takes at most 30 MiB beyond the pages that its guest has written", async (t) => {
    const { guest, own } = await privateMemory(await machine());
    t.diagnostic(`the guest's own pages ${guest} MiB, QEMU's ${own} MiB`);
    assert.ok(guest > 0);
    assert.ok(own <= 30, `${own} MiB`);
  });

  test("an idle sandbox leaves the processor to others", async (t) => {
    const pid = await machine();
    // A wake and its first commands leave work to the guest.
    const isIdle = async (): Promise<boolean> => {
      const [began, ticks, exits] = [performance.now(), await processorTicks(pid), await guestExits(pid)];
      await new Promise((resolve) => setTimeout(resolve, 10_000));
      const took = (performance.now() - began) / 1000;
      // A tick is 10 ms on every Linux.
      const used = ((await processorTicks(pid)) - ticks) / (took * 100);
      const exited = ((await guestExits(pid)) - exits) / took;
      t.diagnostic(`${(used * 100).toFixed(1)}% of a processor, ${Math.round(exited)} exits of the guest a second`);
      return used < 0.1;
    };
    await eventually("the machine uses less than a tenth of a processor", isIdle, patience);
  });

  test("files are written and read, including files of several megabytes", async () => {
    assert.equal(await sandbox.files.read("/workspace/note"), "first");
    const bytes = new Uint8Array(4 * 2 ** 20).map((_, index) => (index * 31) % 251);
    await sandbox.files.write("/workspace/large", bytes);
    const read = await sandbox.files.readBytes("/workspace/large");
    assert.ok(Buffer.from(bytes).equals(Buffer.from(read)));
  });

  test("a sandbox is hibernated and woken with its processes, and its clock is right", async () => {
    await sandbox.hibernate();
    assert.deepEqual(await machineProcesses(directory), []);
    const since = seconds();
    await sandbox.wake({ timeout: 7200 });
    await assertClock(since, sandbox);
    assert.equal(await run("pgrep -x sleep; cat /workspace/note"), `${sleeper}\nfirst`);
    assert.equal((await ask("GET", ""))["restoredFrom"], "memory");
  });

  test("a checkpoint is forked twice at once and restored in place, with its processes and the right time", async () => {
    const { id } = await sandbox.createCheckpoint("first");
    const isReady = async (): Promise<boolean> => {
      const { status } = (await sandbox.listCheckpoints()).find((checkpoint) => checkpoint.id === id) ?? {};
      assert.ok(status === "ready" || status === "processing", `the checkpoint is ${status}`);
      return status === "ready";
    };
    await eventually("the checkpoint is ready", isReady, patience);
    await run("echo second > /workspace/note; pkill -x sleep");
    const since = seconds();
    const forks = await Promise.all([1, 2].map(() => Sandbox.createFromCheckpoint(id, options())));
    for (const fork of forks) await assertClock(since, fork);
    const seen = await Promise.all(forks.map((fork) => run("pgrep -x sleep; cat /workspace/note", fork)));
    assert.deepEqual(seen, [`${sleeper}\nfirst`, `${sleeper}\nfirst`]);
    await Promise.all(forks.map((fork) => fork.kill()));
    assert.equal(await run("cat /workspace/note"), "second");
    await sandbox.restoreCheckpoint(id);
    assert.equal(await run("pgrep -x sleep; cat /workspace/note"), `${sleeper}\nfirst`);
  });

  test("a sandbox is given more memory while it runs, and gives it back", async () => {
    const mib = async (): Promise<number> =>
      Math.round(Number(await run("awk '/^MemTotal/ { print $2 }' /proc/meminfo")) / 1024);
    const began = await mib();
    await ask("POST", "/scale", { memoryMB: 768 });
    assert.equal(await mib(), began + 256);
    await ask("POST", "/scale", { memoryMB: 512 });
    assert.equal(await mib(), began);
  });

  suite("the network, whose packets vhost moves", { skip: skipNetwork }, () => {
    const site = "203.0.113.10";
    const port = 7777;
    let namespaceFile: string;

    before(async () => {
      const world = stack.use(await startSite(site));
      stack.use(greet(world.namespace, port, []));
      const [entry] = await readEntries(directory);
      ({ namespaceFile } = slotNames(entry?.machine?.slot ?? assert.fail("no machine has a slot")));
    });

    const greeting = `bash -c 'exec 3<>/dev/tcp/${site}/${port} && head -1 <&3' 2>&1 || true`;

    test("a policy admits an address, and without one nothing is reached", async () => {
      await ask("PUT", "/network", { egress: { allow: [site] } });
      assert.equal(await run(greeting), `${site}:${port}`);
      await ask("PUT", "/network", { egress: { allow: ["198.51.100.1"] } });
      assert.match(await run(greeting), /Connection refused/);
      await ask("PUT", "/network", { networkEnabled: false });
      assert.match(await run(greeting), /Connection refused|unreachable/);
      await ask("PUT", "/network", { networkEnabled: true, egress: {} });
      assert.equal(await run(greeting), `${site}:${port}`);
    });

    test("the limit of the bandwidth holds in both directions", async () => {
      const setRate = async (bandwidthMbit: number): Promise<void> =>
        void (await runCommand("limit the bandwidth", ["tc", "-batch", "-"], {
          input: queueCommands({ ...defaultLimits, bandwidthMbit }),
          namespace: namespaceFile,
        }));
      const bytes = 1_000_000;
      const echo = `exec 3<>/dev/tcp/${site}/${port}; read -u 3; head -c ${bytes} /dev/zero >&3 & head -c ${bytes} <&3 | wc -c`;
      await setRate(1);
      const began = performance.now();
      assert.equal(await run(`bash -c '${echo}'`), `${bytes}`);
      const took = performance.now() - began;
      // 1 Mbit/s is 125 kB/s. The bucket of 256 KiB is full at the start, in each direction.
      const least = (((bytes - 256 * 1024) * 8) / 1_000_000) * 1000;
      assert.ok(took >= least, `${bytes} bytes there and back took ${took} ms, at least ${least} ms at 1 Mbit/s`);
      await setRate(defaultLimits.bandwidthMbit);
    });
  });

  test("a server on the guest's localhost has a preview", async () => {
    await run("/run/opensandbox/bin/busybox httpd -p 127.0.0.1:8000 -h /workspace");
    const headers = { host: sandbox.getPreviewDomain(8000) };
    const response = await answerOf(startRequest(`${server.url}/note`, { headers, agent: false }).end());
    assert.equal(response.statusCode, 200);
    assert.equal(await text(response), "first");
  });

  test("a killed server leaves its machine to the next", async () => {
    const machines = await machineProcesses(directory);
    await endServer(server.process, "SIGKILL");
    await startServer();
    sandbox = await Sandbox.connect(sandbox.sandboxId, options());
    assert.equal(sandbox.status, "running");
    assert.deepEqual(await machineProcesses(directory), machines);
    assert.equal(await run("pgrep -x sleep; cat /workspace/note"), `${sleeper}\nfirst`);
  });

  test("the accelerator is probed once, and the outcome is kept", async () => {
    const stored = await readFile(join(directory, "accelerator-probe.json"), "utf8");
    assert.match((JSON.parse(stored) as { detail: string }).detail, /^a probe guest ran in \d+ ms$/);
  });

  test("a host that loses /dev/kvm refuses a sandbox instead of emulating it", { skip: skipDevices }, async () => {
    const running = await machineProcesses(directory);
    await rename("/dev/kvm", "/dev/kvm.away");
    try {
      const refused = /501 .*Cannot open \/dev\/kvm \(ENOENT\)\. \.\/opensandbox doctor/;
      await assert.rejects(Sandbox.create({ ...options(), template: "minimal" }), refused);
    } finally {
      await rename("/dev/kvm.away", "/dev/kvm");
    }
    assert.deepEqual(await machineProcesses(directory), running);
    assert.equal(await run("cat /workspace/note"), "first");
  });

  test("a snapshot that was taken with vhost wakes on a host without it", { skip: skipDevices }, async () => {
    await sandbox.hibernate();
    assert.equal(await endServer(server.process, "SIGTERM"), 0);
    await rename("/dev/vhost-net", "/dev/vhost-net.away");
    try {
      await startServer();
    } finally {
      await rename("/dev/vhost-net.away", "/dev/vhost-net");
    }
    sandbox = await Sandbox.connect(sandbox.sandboxId, options());
    assert.equal(await run("pgrep -x sleep"), sleeper);
    assert.equal((await ask("GET", ""))["restoredFrom"], "memory");
    const line = await readFile(`/proc/${await machine()}/cmdline`, "utf8");
    assert.match(line, /vhost=off/);
    await sandbox.kill();
    assert.deepEqual(await machineProcesses(directory), []);
  });

  test("every agent channel was vsock", { skip: hasVsock ? false : "this host has no vsock" }, () => {
    assert.ok(logged.some((line) => line.includes("agent channels of new machines") && line.includes("vsock")));
    const others = logged.filter((line) => line.includes("its channel is virtio-serial"));
    assert.deepEqual(others, []);
  });
});

/** Seconds since 1970 on this host. */
function seconds(): number {
  return (performance.timeOrigin + performance.now()) / 1000;
}

/**
 * The memory in MiB that a machine's process shares with nothing: pages that its guest has written, and all others, page
 * tables included. QEMU's program and the base of the guest's memory are shared.
 */
async function privateMemory(pid: number): Promise<{ readonly guest: number; readonly own: number }> {
  let isGuest = false;
  const kib = { guest: 0, own: 0 };
  for (const line of (await readFile(`/proc/${pid}/smaps`, "utf8")).split("\n")) {
    // A mapping's first line names its file; the memory of the guest is a private mapping of a base.
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) isGuest = line.includes("/memory.");
    kib[isGuest ? "guest" : "own"] += Number(/^Anonymous:\s*(\d+) kB$/.exec(line)?.[1] ?? 0);
  }
  kib.own += Number(/^VmPTE:\s*(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1]);
  return { guest: Math.round(kib.guest / 1024), own: Math.round(kib.own / 1024) };
}

/** How often KVM has left the guest of a process; NaN where the kernel's debug files are not mounted. */
async function guestExits(pid: number): Promise<number> {
  const folder = "/sys/kernel/debug/kvm";
  const [name] = (await readdir(folder).catch(() => [])).filter((entry) => entry.startsWith(`${pid}-`));
  return name === undefined ? Number.NaN : Number(await readFile(join(folder, name, "exits"), "utf8"));
}

/** The processor time of a process, in ticks of the kernel. */
async function processorTicks(pid: number): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, "utf8")).replace(/^.*\) /, "").split(" ");
  // proc(5): utime and stime are fields 14 and 15; the process id and the name are gone.
  return Number(fields[11]) + Number(fields[12]);
}
