import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmod, mkdtemp, readdir, readlink, rename, rm } from "node:fs/promises";
import { request as startRequest } from "node:http";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { text as textOf } from "node:stream/consumers";
import { after, afterEach, before, suite, test } from "node:test";
import { promisify } from "node:util";
import { Sandbox } from "@opencomputer/sdk";
import { examineHost, readConfig } from "@opensandbox/server";
import { killProcessesOf, processesOf } from "../../packages/worker/src/host/kill-by-path.ts";
import { firecrackerTransport } from "../../packages/worker/src/hypervisor/firecracker/agent-transport.ts";
import { greet } from "../../packages/worker/src/network/testing/internet.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { answerOf } from "./answer-of.ts";
import { assertNoRights, openFiles, statusOf } from "./confinement.ts";
import { machineProcesses } from "./machine-processes.ts";
import { makeFetchPatient } from "./patient-fetch.ts";
import { startSite } from "./site.ts";
import { endServer, spawnServerOn } from "./spawn-server.ts";

const backend = { OPENSANDBOX_VM_BACKEND: "firecracker" };
const findings = await examineHost(readConfig({ ...process.env, ...backend }));
const failed = findings.find(({ name, level }) => level === "fail" && ["Firecracker", "network"].includes(name));
const skip = failed === undefined ? false : failed.detail;

/** A booted guest under KVM takes seconds, and minutes in a host that is itself emulated. */
const patience = { withinMs: 600_000, everyMs: 500 };

suite("under Firecracker", { skip }, () => {
  let directory: string;
  let server: Awaited<ReturnType<typeof spawnServerOn>>;
  let sandbox: Sandbox;
  const options = () => ({ apiUrl: server.url, apiKey: server.apiKey });

  const start = async (): Promise<void> => {
    const env = {
      ...backend,
      OPENSANDBOX_API_KEY: "key-of-the-test",
      OPENSANDBOX_DEFAULT_SANDBOX_MEMORY_MB: "512",
      OPENSANDBOX_READY_MACHINES: "0",
    };
    server = await spawnServerOn(directory, { stays: true, env });
  };

  before(async () => {
    await makeFetchPatient();
    directory = await mkdtemp(join(tmpdir(), "osb-firecracker-"));
    await chmod(directory, 0o711);
    await start();
    sandbox = await Sandbox.create({ ...options(), template: "minimal", timeout: 3600 });
  });

  after(async () => {
    server?.process.kill("SIGKILL");
    // The storage daemons of machines too.
    await killProcessesOf(directory);
    await rm(directory, { recursive: true, force: true });
  });

  async function run(command: string, on = sandbox): Promise<string> {
    const { exitCode, stdout, stderr } = await on.commands.run(command, { timeout: 300 });
    assert.equal(exitCode, 0, `${command}: ${stdout}${stderr}`);
    return stdout.trimEnd();
  }

  /** The guest's clock is that of this host, to 10 s. No bound depends on the duration of the command. */
  async function assertClock(): Promise<void> {
    const since = Date.now() / 1000;
    const clock = Number(await run("date +%s"));
    const until = Date.now() / 1000;
    assert.ok(since - 10 <= clock && clock <= until + 10, `${since} <= ${clock} <= ${until}`);
  }

  async function machine(): Promise<number> {
    const [pid = assert.fail("no machine runs"), ...others] = await machineProcesses(directory);
    assert.deepEqual(others, []);
    return pid;
  }

  async function readyCheckpoint(name: string): Promise<string> {
    const { id } = await sandbox.createCheckpoint(name);
    const isReady = async (): Promise<boolean> => {
      const { status } = (await sandbox.listCheckpoints()).find((checkpoint) => checkpoint.id === id) ?? {};
      assert.ok(status === "processing" || status === "ready", `the checkpoint is ${status}`);
      return status === "ready";
    };
    await eventually("the checkpoint is ready", isReady, patience);
    return id;
  }

  afterEach(async (context) => {
    if (!("passed" in context) || context.passed || sandbox === undefined) return;
    // A guest that has stopped says why on its console.
    const url = `${server.url}/api/sandboxes/${sandbox.sandboxId}/console`;
    const read = async (): Promise<string> => {
      const response = await fetch(url, { headers: { "X-API-Key": server.apiKey } });
      return await response.text();
    };
    context.diagnostic(`the console of the sandbox: ${(await read().catch(String)).slice(-4000)}`);
  });

  async function totalMib(): Promise<number> {
    return Math.round(Number(await run("awk '/^MemTotal/ { print $2 }' /proc/meminfo")) / 1024);
  }

  /** How many pages of the memory that was added are in use. */
  async function movablePages(): Promise<number> {
    const program =
      '/^Node/ { zone = $4 } zone == "Movable" && $1 == "managed" { all = $2 } zone == "Movable" && $1 == "nr_free_pages" { free = $2 } END { print all - free }';
    return Number(await run(`awk '${program}' /proc/zoneinfo`));
  }

  async function replyOf(
    path: string,
    method = "GET",
    body = {},
  ): Promise<{ readonly status: number; readonly body: object }> {
    const response = await fetch(`${server.url}/api/sandboxes/${sandbox.sandboxId}${path}`, {
      method,
      headers: { "X-API-Key": server.apiKey, "Content-Type": "application/json" },
      ...(method === "GET" ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, body: text === "" ? {} : (JSON.parse(text) as object) };
  }

  test("Firecracker and its storage daemon have no rights of the host, and no descriptor of it that they do not need", async () => {
    const pid = await machine();
    const field = await statusOf(pid);
    assert.ok(Number(field("Uid").split(/\s/)[0]) >= 1_900_000_000, field("Uid"));
    assert.equal(field("CapBnd"), "0000000000000000");
    await assertNoRights(pid);
    // The worker's filter comes before that of Firecracker, which has no rules in a program for the GNU C library.
    const isFiltered = findings.some(({ name, level }) => name === "system calls" && level === "ok");
    assert.equal(Number(field("Seccomp_filters")), isFiltered ? 2 : 1);

    const machines = join(directory, "machines");
    const daemon =
      (await processesOf(machines)).find((other) => other !== pid) ?? assert.fail("no storage daemon runs");
    const ofDaemon = await statusOf(daemon);
    // The right to mount, in a user namespace of the machine's own.
    assert.equal(ofDaemon("CapEff"), "0000000000200000");
    assert.equal(ofDaemon("NoNewPrivs"), "1");
    assert.notEqual(await readlink(`/proc/${daemon}/ns/user`), await readlink("/proc/self/ns/user"));
    const kernel =
      /^(\/dev\/(null|urandom)|pipe:\[\d+\]|anon_inode:\[(eventfd|eventpoll|signalfd|timerfd|io_uring)\])$/;
    const kvm = /^(\/dev\/(kvm|net\/tun)|anon_inode:kvm-(vm|vcpu:\d+|vcpu-stats:\d+|vm-stats|device.*))$/;
    const fuse = /^\/dev\/fuse$/;
    const { imagesDirectory, templatesDirectory } = readConfig(process.env);
    // A machine's files are links into the caches. Firecracker binds its sockets in its working directory.
    const isOwn = (file: string): boolean =>
      ["agent.sock", "api.sock"].includes(file) ||
      [machines, imagesDirectory, templatesDirectory].some((folder) => file.startsWith(`${folder}/`));
    for (const [process, devices, sockets] of [
      [pid, kvm, ["agent.sock", "api.sock"]],
      [daemon, fuse, ["storage.sock"]],
    ] as const) {
      const opened = await openFiles(process);
      assert.deepEqual(
        opened.filter((file) => !kernel.test(file) && !devices.test(file) && !isOwn(file)),
        [],
      );
      // Nothing else of the host's files: no /etc, no /home, no database.
      const seen = await readdir(`/proc/${process}/root`);
      const top = machines.split("/")[1] ?? "";
      const programs = ["bin", "sbin", "lib", "lib32", "lib64", "usr"];
      assert.deepEqual(
        seen.filter((name) => !["dev", top, ...programs].includes(name)),
        [],
      );
      assert.deepEqual(await readdir(join(`/proc/${process}/root`, directory)), ["machines"]);
      const listeners = new Set(opened.filter((file) => file.endsWith(".sock")).map((file) => basename(file)));
      assert.deepEqual([...listeners].toSorted(), sockets);
    }
  });

  test("a machine's user makes no file in its machine's directory, and no link there is followed", async () => {
    const field = await statusOf(await machine());
    const [uid = "", gid = ""] = ["Uid", "Gid"].map((name) => field(name).split(/\s/)[0]);
    const [name = ""] = await readdir(join(directory, "machines"));
    const path = join(directory, "machines", name);
    const script = [
      `ln -s /etc/shadow '${path}/new' && exit 11`,
      `mv '${path}/own' '${path}/moved' && exit 12`,
      `ls '${path}' && exit 13`,
      // What a Firecracker that its guest has taken over can do.
      `mv '${path}/own/agent.sock' '${path}/own/kept.sock' || exit 14`,
      `ln -s kept.sock '${path}/own/agent.sock' || exit 15`,
    ];
    const as = [`--reuid=${uid}`, `--regid=${gid}`, `--groups=${uid}`, "--", "sh", "-c"];
    await promisify(execFile)("setpriv", [...as, script.join("\n")]);
    const transport = firecrackerTransport(join(path, "own", "agent.sock"));
    await assert.rejects(transport.open(AbortSignal.timeout(60_000)), {
      code: "unavailable",
      message: /is not a socket/,
    });
    await rename(join(path, "own", "kept.sock"), join(path, "own", "agent.sock"));
  });

  test("a command runs, with the host's clock", async () => {
    assert.match(await run("uname -a"), /^Linux .*x86_64 GNU\/Linux$/);
    await assertClock();
  });

  test("files are written and read, including files of several megabytes", async () => {
    await sandbox.files.write("/workspace/note", "first");
    assert.equal(await sandbox.files.read("/workspace/note"), "first");
    const bytes = new Uint8Array(4 * 2 ** 20).map((_, index) => (index * 31) % 251);
    await sandbox.files.write("/workspace/large", bytes);
    assert.ok(Buffer.from(bytes).equals(Buffer.from(await sandbox.files.readBytes("/workspace/large"))));
  });

  test("a sandbox is hibernated and woken with its processes, and its clock is right", async () => {
    await run("(setsid sleep 100000 >/dev/null 2>&1 &)");
    const pid = await run("pgrep -x sleep");
    await sandbox.hibernate();
    assert.deepEqual(await machineProcesses(directory), []);
    await sandbox.wake({ timeout: 3600 });
    assert.equal(await run("pgrep -nx sleep; cat /workspace/note"), `${pid}\nfirst`);
    await assertClock();
  });

  test("a checkpoint is forked twice at once and restored in place, with its processes", async () => {
    const pid = await run("pgrep -x sleep");
    const id = await readyCheckpoint("first");
    await run("echo second > /workspace/note; pkill -x sleep");
    const forks = await Promise.all([1, 2].map(() => Sandbox.createFromCheckpoint(id, options())));
    const seen = await Promise.all(forks.map((fork) => run("pgrep -x sleep; cat /workspace/note", fork)));
    assert.deepEqual(seen, [`${pid}\nfirst`, `${pid}\nfirst`]);
    await Promise.all(forks.map((fork) => fork.kill()));
    assert.equal(await run("cat /workspace/note"), "second");
    await sandbox.restoreCheckpoint(id);
    assert.equal(await run("pgrep -nx sleep; cat /workspace/note"), `${pid}\nfirst`);
  });

  test("a sandbox is given more memory while it runs, is hibernated with its content, and gives it back", async () => {
    const began = await totalMib();
    assert.equal((await replyOf("/scale", "POST", { memoryMB: 768 })).status, 200);
    assert.equal(await totalMib(), began + 256);
    // Movable pages, such as these, come from the added memory.
    await run("head -c 32M /dev/urandom > /dev/shm/fill; sha256sum /dev/shm/fill > /dev/shm/sum");
    assert.ok((await movablePages()) >= 4096, `${await movablePages()} pages of the added memory are in use`);
    await sandbox.hibernate();
    await sandbox.wake({ timeout: 3600 });
    assert.equal(await totalMib(), began + 256);
    assert.equal(await run("sha256sum --check --status /dev/shm/sum && echo intact"), "intact");
    await run("rm /dev/shm/fill");
    const isGivenBack = async (): Promise<boolean> => {
      const { status, body } = await replyOf("/scale", "POST", { memoryMB: 512 });
      // A guest whose kernel moves no page for 30 s is taken for one that cannot: on a busy host it is only slow.
      assert.ok(status === 200 || status === 409, JSON.stringify(body));
      return status === 200;
    };
    await eventually("the memory is given back", isGivenBack, patience);
    assert.equal(await totalMib(), began);
  });

  test("a policy admits an address, and without one nothing is reached", async () => {
    const [address, port] = ["203.0.113.10", 7777];
    await using site = await startSite(address);
    using _ = greet(site.namespace, port, []);
    const greeting = `bash -c 'exec 3<>/dev/tcp/${address}/${port} && head -1 <&3' 2>&1 || true`;
    const setNetwork = async (network: object): Promise<void> => {
      const { status, body } = await replyOf("/network", "PUT", network);
      assert.equal(status, 200, JSON.stringify(body));
    };
    await setNetwork({ egress: { allow: [address] } });
    assert.equal(await run(greeting), `${address}:${port}`);
    await setNetwork({ egress: { allow: ["198.51.100.1"] } });
    assert.match(await run(greeting), /Connection refused/);
    await setNetwork({ networkEnabled: false });
    assert.match(await run(greeting), /Connection refused|unreachable/);
    await setNetwork({ networkEnabled: true, egress: {} });
    assert.equal(await run(greeting), `${address}:${port}`);
  });

  test("a server on the guest's localhost has a preview", async () => {
    await run("/run/opensandbox/bin/busybox httpd -p 127.0.0.1:8000 -h /workspace");
    const headers = { host: sandbox.getPreviewDomain(8000) };
    const response = await answerOf(startRequest(`${server.url}/note`, { headers, agent: false }).end());
    assert.equal(response.statusCode, 200);
    assert.equal(await textOf(response), "first");
  });

  test("the layers of many captures are merged while the sandbox runs", async () => {
    const layersOf = async (disk: string): Promise<number> => {
      const [machine = assert.fail("no machine runs")] = await readdir(join(directory, "machines"));
      const files = await readdir(join(directory, "machines", machine));
      return files.filter((file) => file.startsWith(`${disk}-`)).length;
    };
    const sum = await run("sha256sum /workspace/large");
    for (let count = 1; count <= 9; count += 1) {
      await run(`echo ${count} > /workspace/note; sync`);
      await readyCheckpoint(`layer ${count}`);
    }
    assert.ok((await layersOf("workspace")) > 9);
    for (const { id } of await sandbox.listCheckpoints()) await sandbox.deleteCheckpoint(id);
    // The template's, the merged one, and the one that was put over it while the merge ran.
    const areMerged = async (): Promise<boolean> =>
      (await layersOf("workspace")) <= 3 && (await layersOf("rootfs")) <= 3;
    await eventually("the layers are merged", areMerged, patience);
    assert.equal(await run("cat /workspace/note; sha256sum /workspace/large"), `9\n${sum}`);
    await sandbox.hibernate();
    await sandbox.wake({ timeout: 3600 });
    assert.equal(await run("cat /workspace/note; sha256sum /workspace/large"), `9\n${sum}`);
    await run("echo first > /workspace/note; sync");
  });

  test("a sandbox is power-cycled on its disks", async () => {
    await run("sync");
    assert.equal((await replyOf("/power-cycle", "POST")).status, 204);
    assert.equal(await run("cat /workspace/note"), "first");
  });

  test("the next server takes over the machine of a server that was killed", async () => {
    await run("(setsid sleep 100000 >/dev/null 2>&1 &)");
    const pid = await run("pgrep -nx sleep");
    const machines = await machineProcesses(directory);
    await endServer(server.process, "SIGKILL");
    await start();
    sandbox = await Sandbox.connect(sandbox.sandboxId, options());
    assert.equal(await run("pgrep -nx sleep; cat /workspace/note"), `${pid}\nfirst`);
    assert.deepEqual(await machineProcesses(directory), machines);
    await sandbox.hibernate();
    await sandbox.wake({ timeout: 3600 });
    assert.equal(await run("pgrep -nx sleep; cat /workspace/note"), `${pid}\nfirst`);
  });
});
