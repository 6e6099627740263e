import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { chmod, mkdtemp, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { Image, Snapshots } from "@opencomputer/sdk/node";
import { type Server, type ServerConfig, startServer } from "@opensandbox/server";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { hostState } from "./host-state.ts";
import { machineProcesses } from "./machine-processes.ts";
import { SshClient, withoutSsh } from "./ssh-client.ts";
import { worldConfig } from "./world.ts";

/** Machines boot in seconds, or in minutes on a crowded host without KVM. */
const patience = { withinMs: 600_000, everyMs: 100 };

// Hibernation, checkpoints, forks and images through the published client, against real machines.
suite("the life of a sandbox", () => {
  let directory: string;
  let config: ServerConfig;
  let server: Server;
  let sandbox: Sandbox;

  const apiKey = "key-of-the-test";
  const options = () => ({ apiUrl: server.url, apiKey });
  const run = async (command: string, on = sandbox, timeout = 120): Promise<string> => {
    const { exitCode, stdout, stderr } = await on.commands.run(command, { timeout });
    assert.equal(exitCode, 0, `${command}: ${stdout}${stderr}`);
    return stdout.trimEnd();
  };
  const ask = async (method: string, path: string, body?: object) => {
    const response = await fetch(`${server.url}/api/${path}`, {
      method,
      headers: { "X-API-Key": apiKey },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, reply: (text === "" ? {} : JSON.parse(text)) as Record<string, unknown> };
  };
  const get = async (id = sandbox.sandboxId) => (await ask("GET", `sandboxes/${id}`)).reply;
  /** Waits as a user would: by polling the list. */
  const made = async (name: string, opts: Parameters<Sandbox["createCheckpoint"]>[1] = {}) => {
    const { id, status } = await sandbox.createCheckpoint(name, opts);
    assert.equal(status, "processing");
    return await eventually(
      `checkpoint ${name} is processed`,
      async () => (await sandbox.listCheckpoints()).find((found) => found.id === id && found.status !== "processing"),
      patience,
    );
  };
  const start = async () => {
    server = await startServer(
      config,
      { embedded: false, image: "minimal", onProgress: () => undefined },
      AbortSignal.timeout(1_800_000),
    );
  };
  const restart = async () => {
    await server[Symbol.asyncDispose]();
    await start();
    sandbox = await Sandbox.connect(sandbox.sandboxId, options());
  };

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-life-"));
    await chmod(directory, 0o711);
    config = worldConfig(directory, {
      OPENSANDBOX_API_KEY: apiKey,
      OPENSANDBOX_READY_MACHINES: "0",
      OPENSANDBOX_SSH_PORT: "0",
      OPENSANDBOX_DEFAULT_SANDBOX_MEMORY_MB: "512",
    });
    await start();
    sandbox = await Sandbox.create({ ...options(), template: "minimal", timeout: 600, envs: { FROM: "create" } });
    await run("echo first > /workspace/note; (setsid sleep 100000 > /dev/null 2>&1 &)");
  });
  after(async () => {
    await server?.[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  });

  test("a sandbox is hibernated and woken with its processes, and keeps time", async () => {
    const pid = await run("pgrep -x sleep");
    await sandbox.hibernate();
    assert.deepEqual([sandbox.status, (await get())["status"]], ["hibernated", "hibernated"]);
    assert.equal(await sandbox.isRunning(), false);
    await assert.rejects(sandbox.hibernate(), /not running/);
    await sandbox.wake({ timeout: 600 });
    assert.equal(sandbox.status, "running");
    assert.equal((await get())["restoredFrom"], "memory");
    assert.equal(await run("pgrep -x sleep; cat /workspace/note"), `${pid}\nfirst`);
    const skew = Math.abs(Number(await run("date +%s")) - Date.now() / 1000);
    assert.ok(skew < 10, `${skew} s`);
    await assert.rejects(sandbox.wake(), /400 .*sandbox is not hibernated/);
  });

  test("simultaneous file and command requests wake a sandbox", async () => {
    const pid = await run("pgrep -x sleep");
    await sandbox.hibernate();
    const replies = await Promise.all([
      sandbox.files.read("/workspace/note"),
      run("pgrep -x sleep"),
      sandbox.files.exists("/workspace/none"),
      run("echo $FROM"),
    ]);
    assert.deepEqual(replies, ["first\n", pid, false, "create"]);
    assert.equal((await get())["timeout"], 600);
  });

  test("SSH reaches the machine, copies files, and wakes it", { skip: withoutSsh }, async () => {
    const files = await mkdtemp(join(directory, "ssh-"));
    const ssh = await SshClient.create(files, { url: server.url, apiKey });
    const remote = `${sandbox.sandboxId}@gateway`;
    const said = await ssh.run([remote, "id -un; cat /workspace/note; exit 3"], "");
    assert.deepEqual(said, { code: 3, stdout: "sandbox\nfirst\n", stderr: "" });
    assert.match((await ssh.run(["-tt", remote, "tty"], "")).stdout, /^\/dev\/pts\/\d+\r\n$/);
    const content = randomBytes(1_000_000);
    await writeFile(join(files, "up"), content);
    await ssh.ok("scp", [join(files, "up"), `${remote}:copied`]);
    await ssh.ok("scp", [`${remote}:copied`, join(files, "down")]);
    assert.deepEqual(await readFile(join(files, "down")), content);
    assert.equal(await run("stat -c %U copied; rm copied"), "sandbox");
    const pid = await run("pgrep -x sleep");
    await sandbox.hibernate();
    assert.equal((await ssh.run([remote, "pgrep -x sleep"], "")).stdout, `${pid}\n`);
  });

  test("an idle sandbox is hibernated by itself", async () => {
    await sandbox.setTimeout(2);
    await eventually("it is hibernated", async () => (await get())["status"] === "hibernated", patience);
    await sandbox.setTimeout(600);
    assert.equal((await get())["status"], "hibernated");
    assert.equal(await run("cat /workspace/note"), "first");
  });

  test("a damaged snapshot is refused and kept, and wakes once it is repaired", async () => {
    await sandbox.hibernate();
    const [snapshot = ""] = (await readdir(join(directory, "snapshots"))).filter((name) => !name.startsWith("."));
    const flip = async (): Promise<void> => {
      await using file = await open(join(directory, "snapshots", snapshot, "memory.delta"), "r+");
      const { buffer } = await file.read(Buffer.alloc(1), 0, 1, 5000);
      await file.write(Buffer.from([~(buffer[0] ?? 0) & 0xff]), 0, 1, 5000);
    };
    await flip();
    await assert.rejects(sandbox.wake(), /409 .*"code":"incompatible"/);
    await assert.rejects(run("true"), /409/);
    const { status, reason } = await get();
    assert.equal(status, "hibernated");
    assert.match(String(reason), /^it could not be woken: /);
    await flip();
    assert.equal(await run("cat /workspace/note"), "first");
    assert.equal((await get())["restoredFrom"], "memory");
  });

  test("a checkpoint is made and restored in place, and its name is then taken", async () => {
    const checkpoint = await made("first");
    assert.deepEqual([checkpoint.status, checkpoint.name], ["ready", "first"]);
    await assert.rejects(sandbox.createCheckpoint("first"), /409 .*checkpoint name already exists for this sandbox/);
    const pid = await run("pgrep -x sleep");
    await run("echo second > /workspace/note; pkill -x sleep; echo left > /workspace/left");
    await sandbox.restoreCheckpoint(checkpoint.id);
    assert.equal(await run("pgrep -x sleep; cat /workspace/note; ls /workspace"), `${pid}\nfirst\nnote`);
    assert.equal(await sandbox.isRunning(), true);
  });

  test("forks get their patches, their own environment and randomness, and live independently", async () => {
    const id = (await sandbox.listCheckpoints())[0]?.id ?? "";
    const { patch } = await Sandbox.createCheckpointPatch(id, {
      ...options(),
      script: "echo patched > /workspace/patched",
      description: "a file",
    });
    assert.equal(patch.sequence, 1);
    assert.equal((await Sandbox.listCheckpointPatches(id, options())).length, 1);
    const forks = await Promise.all(
      ["one", "two"].map((name) => Sandbox.createFromCheckpoint(id, { ...options(), envs: { NAME: name } })),
    );
    const random = "cat /proc/sys/kernel/random/uuid /etc/machine-id";
    const seen = await Promise.all(
      forks.map((fork) => run(`cat /workspace/patched; echo $NAME $FROM; ${random}`, fork)),
    );
    const [one = [], two = []] = seen.map((text) => text.split("\n"));
    assert.deepEqual([one[0], two[0]], ["patched", "patched"]);
    assert.deepEqual([one[1], two[1]], ["one create", "two create"]);
    assert.equal(new Set([one[2], two[2], one[3], two[3], ...(await run(random)).split("\n")]).size, 6);
    assert.equal(await run("ls /workspace"), "note");

    // sudo complains when it cannot resolve its host's name. The name for the next boot is written a little later.
    const kept = 'until [ "$(cat /etc/hostname)" = "$(hostname)" ]; do sleep 0.1; done';
    const identity = `sudo hostname 2>&1; ${kept}; cat /etc/hostname /sys/class/net/eth0/address`;
    const identities = await Promise.all(forks.map((fork) => run(identity, fork)));
    const lines = [await run(identity), ...identities].map((text) => text.split("\n"));
    const names = ["sandbox", ...forks.map(({ sandboxId }) => sandboxId.replace("sb", "sandbox"))];
    assert.deepEqual(
      lines.map(([name, kept, , ...more]) => [name, kept, ...more]),
      names.map((name) => [name, name]),
    );
    assert.equal(new Set(lines.map(([, , address]) => address)).size, 3);

    const [first, second] = forks;
    assert.ok(first !== undefined && second !== undefined);
    await run("echo of the fork > /workspace/note", first);
    assert.equal(await run("cat /workspace/note", second), "first");
    await Sandbox.deleteCheckpointPatch(id, patch.id, options());
    await Sandbox.createCheckpointPatch(id, { ...options(), script: "echo broken >&2; exit 3" });
    await first.hibernate();
    assert.equal(await run("cat /workspace/note", first), "of the fork");
    assert.equal(await run(identity, first), identities[0]);
    await first.reboot();
    assert.equal(await run(identity, first), identities[0]);
    assert.match(String((await get(first.sandboxId))["patchError"]), /^patch 2 exited with 3: broken/);
    await Promise.all(forks.map((fork) => fork.kill()));
  });

  test("a checkpoint without memory boots, also as a fork of another size, and the reply says so", async () => {
    const disks = await made("disks", { kind: "disk_only" });
    const fork = await Sandbox.createFromCheckpoint(disks.id, options());
    assert.equal((await get(fork.sandboxId))["restoredFrom"], "disk");
    assert.equal(await run("cat /workspace/note; pgrep -x sleep || echo booted", fork), "first\nbooted");
    await fork.kill();
    await sandbox.deleteCheckpoint(disks.id);
  });

  test("a sandbox has at most ten checkpoints; on request the oldest is replaced", async () => {
    for (let count = (await sandbox.listCheckpoints()).length; count < 10; count++) await made(`c${count}`);
    await assert.rejects(sandbox.createCheckpoint("too many"), /400 .*maximum 10 checkpoints per sandbox/);
    await made("newest", { retentionPolicy: { mode: "delete_oldest", maxCount: 2 } });
    const left = await sandbox.listCheckpoints();
    assert.deepEqual(
      left.map(({ name }) => name),
      ["c9", "newest"],
    );
    await Promise.all(left.map(({ id }) => sandbox.deleteCheckpoint(id)));
    await sandbox.deleteCheckpoint("00000000-0000-4000-8000-000000000000");
    assert.deepEqual(await sandbox.listCheckpoints(), []);
    assert.equal(await run("cat /workspace/note"), "first");
  });

  test("a killed machine becomes an error, and a power-cycle boots its disks", async () => {
    await run("echo chosen | sudo tee /etc/hostname; echo written > /workspace/before; sync");
    const [machine, ...others] = await machineProcesses(directory);
    assert.ok(machine !== undefined && others.length === 0);
    process.kill(machine, "SIGKILL");
    await eventually("its machine has ended", async () => (await get())["status"] === "error", patience);
    await assert.rejects(run("true"), /410/);
    await sandbox.powerCycle();
    assert.equal(await run("cat /workspace/before; rm /workspace/before; hostname"), "written\nchosen");
    await sandbox.reboot();
    assert.equal(await run("cat /workspace/note; echo $FROM"), "first\ncreate");
  });

  test("a guest that reboots itself is back with the next call", async () => {
    const bootId = "cat /proc/sys/kernel/random/boot_id";
    await run("echo before > /workspace/reset; sync");
    const first = await run(bootId);
    // The command's end is unknown, and a request for it would already be the next call.
    await run("echo b | sudo tee /proc/sysrq-trigger").catch(() => undefined);
    // A call fails when it arrives before the worker has noticed the end.
    const second = await eventually("it boots again", () => run(bootId).catch(() => undefined), patience);
    assert.notEqual(second, first);
    assert.equal(await run("cat /workspace/reset; rm /workspace/reset; echo $FROM"), "before\ncreate");
  });

  test("a server that ends hibernates its sandboxes, and the next server wakes them", async () => {
    await run("(setsid sleep 100000 > /dev/null 2>&1 &)");
    const pid = await run("pgrep -x sleep");
    await restart();
    assert.equal(sandbox.status, "hibernated");
    assert.equal(await run("pgrep -x sleep; cat /workspace/note"), `${pid}\nfirst`);
  });

  test("a deleted sandbox leaves nothing but its row", async () => {
    const twin = await Sandbox.create({ ...options(), template: "minimal" });
    await twin.hibernate();
    await twin.kill();
    assert.equal((await get(twin.sandboxId))["status"], "stopped");
    await sandbox.kill();
    const { processes, machines } = hostState(directory) as Record<string, unknown[]>;
    const snapshots = (await readdir(join(directory, "snapshots"))).filter((name) => !name.startsWith("."));
    assert.deepEqual({ processes, machines, snapshots }, { processes: [], machines: [], snapshots: [] });
  });

  test("an image is built from its steps once, with a log", async () => {
    const image = minimalImage()
      .env({ GREETING: "hello world" })
      .workdir("/workspace/app")
      .addFile("/workspace/app/say.sh", "echo $GREETING from $(pwd) as $(whoami)\n")
      .runCommands("sh say.sh > said", "sudo touch /etc/built");
    const logs: string[] = [];
    const create = () => Sandbox.create({ ...options(), image, timeout: 0, onBuildLog: (log) => logs.push(log) });
    const first = await create();
    assert.ok(logs.length > 3, logs.join("\n"));
    assert.equal(
      await run("cat /workspace/app/said; ls /etc/built; echo $GREETING", first),
      "hello world from /workspace/app as sandbox\n/etc/built\nhello world",
    );
    assert.equal((await get(first.sandboxId))["restoredFrom"], "memory");
    const before = logs.length;
    const second = await create();
    assert.equal(logs.length, before + 1);
    assert.equal(await run("cat /workspace/app/said", second), "hello world from /workspace/app as sandbox");
    await Promise.all([first.kill(), second.kill()]);
    const { reply } = await ask("GET", "images");
    const images = reply as unknown as { contentHash: string }[];
    assert.deepEqual(
      images.map(({ contentHash }) => contentHash),
      [image.cacheKey()],
    );
    const failing = minimalImage().runCommands("echo no such thing >&2; exit 7");
    await assert.rejects(
      Sandbox.create({ ...options(), image: failing }),
      /Build failed: step 1 \(run\) failed: exit code 7\n[^]*no such thing/,
    );
  });

  test("an image with a name is built, listed, used and deleted", async () => {
    const snapshots = new Snapshots(options());
    const image = minimalImage().addFile("/workspace/kept", "kept");
    const logs: string[] = [];
    const snapshot = await snapshots.create({ name: "mine", image, onBuildLogs: (log) => logs.push(log) });
    assert.equal(snapshot.status, "ready");
    assert.ok(logs.length > 0);
    assert.deepEqual(
      (await snapshots.list()).map(({ name }) => name),
      ["mine"],
    );
    assert.equal((await snapshots.get("mine")).id, snapshot.id);
    assert.equal((await snapshots.waitUntilReady("mine")).status, "ready");
    const created = await Sandbox.create({ ...options(), snapshot: "mine" });
    assert.equal(await run("cat /workspace/kept", created), "kept");
    await created.kill();
    await snapshots.delete("mine");
    await assert.rejects(snapshots.get("mine"), /404/);
  });

  test("a server in a sandbox keeps its memory over three hibernations", { timeout: 900_000 }, async () => {
    const box = await Sandbox.create({ ...options(), template: "base", memoryMB: 1024 });
    const program =
      "let n = 0; require('http').createServer((_, reply) => reply.end(String(++n))).listen(8080, () => console.log('up'))";
    await box.files.write("/workspace/server.js", program);
    await run(
      "(setsid node /workspace/server.js > /workspace/log 2>&1 &); until grep -q up /workspace/log; do sleep 0.2; done",
      box,
    );
    const count = () => run("curl -s http://localhost:8080", box);
    assert.equal(await count(), "1");
    for (const expected of ["2", "3", "4"]) {
      await box.hibernate();
      assert.equal(await count(), expected);
      assert.equal((await get(box.sandboxId))["restoredFrom"], "memory");
    }
    await box.kill();
  });
});

/** The client's own builder always starts from the default image; a build from the smaller one is faster. */
function minimalImage(): Image {
  return Reflect.construct(Image, [{ base: "minimal", steps: [] }]);
}
