import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { machineProcesses } from "./machine-processes.ts";
import { startWorld, type World } from "./world.ts";

// The contents of a machine of the default image, and its resistance to abuse.
suite("inside a machine", () => {
  let world: World;
  let sandbox: Sandbox;

  before(async () => {
    world = await startWorld();
    sandbox = await Sandbox.create({ template: "base", apiUrl: world.url, apiKey: world.apiKey });
  });
  after(async () => {
    await world?.[Symbol.asyncDispose]();
  });

  /** The output of a command, without the final newline. */
  async function run(command: string, timeout = 120): Promise<string> {
    const { exitCode, stdout, stderr } = await sandbox.commands.run(command, { timeout });
    assert.equal(exitCode, 0, `${command}: ${stdout}${stderr}`);
    return stdout.trimEnd();
  }

  test("the user is sandbox and may become root", async () => {
    assert.equal(
      await run("whoami; sudo whoami; id -u; pwd; hostname; echo $HOME $USER"),
      "sandbox\nroot\n1000\n/home/sandbox\nsandbox\n/home/sandbox sandbox",
    );
  });

  test("sudo knows the machine's own name", async () => {
    assert.deepEqual(await sandbox.commands.run("sudo true"), { exitCode: 0, stdout: "", stderr: "" });
  });

  test("commands have none of the agent's privileges", async () => {
    const status = await run("grep -E '^(Uid|Gid|Groups|CapEff|CapPrm)' /proc/self/status | tr -s '\\t ' ' '");
    assert.match(
      status,
      /^Uid: 1000 1000 1000 1000\nGid: 1000 1000 1000 1000\nGroups: 1000 ?\nCapPrm: 0+\nCapEff: 0+$/,
    );
  });

  test("limits of open files and watches suit a developer's machine", async () => {
    assert.equal(await run("ulimit -Sn; ulimit -Hn; sudo sh -c 'ulimit -Hn'"), "65536\n1048576\n1048576");
    assert.equal(await run("sysctl -n fs.inotify.max_user_watches fs.inotify.max_user_instances"), "524288\n8192");
    await run("ulimit -n 1048576");
  });

  test("a file of /sys is read although it is shorter than its size", async () => {
    assert.match(await sandbox.files.read("/sys/kernel/mm/transparent_hugepage/enabled"), /never/);
  });

  test("the workspace is a disk of its own and the home directory", async () => {
    assert.match(await run("df /workspace | tail -1"), / \/workspace$/);
    assert.equal(await run("echo kept > /workspace/note; cat ~/note; rm ~/note"), "kept");
    assert.ok(Number(await run("df --output=size -BG /workspace | tail -1 | tr -d ' G'")) >= 18);
  });

  for (const program of ["python3 -c 'print(6*7)'", "node -p 6*7"]) {
    test(program, async () => assert.equal(await run(program), "42"));
  }

  test("the usual tools run", async () => {
    await run(
      "git --version; curl --version; jq --version; npm --version; gcc --version; pip --version; wget --version",
    );
  });

  test("packages install from the network", async () => {
    assert.match(await run("sudo apt-get update 2>&1", 300), /^(Hit|Get):/m);
    // Instructions written for root have this line, without sudo.
    assert.match(await run("apt-get update 2>&1", 300), /^(Hit|Get):/m);
  });

  test("names are resolved", async () => {
    await run("getent ahostsv4 deb.debian.org");
  });

  test("orphans are reaped", async () => {
    await run("for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.1 &' &); done; sleep 1");
    assert.equal(await run("ps -eo stat= | grep -c ^Z || true"), "0");
  });

  test("a background process outlives the command that started it", async () => {
    await run("setsid sh -c 'sleep 300' > /dev/null 2>&1 & echo started");
    await run("sh -c 'sleep 301 & echo also'");
    assert.equal(await run("pgrep -fx 'sleep 30[01]' | wc -l; pkill -fx 'sleep 30[01]'"), "2");
  });

  test("QEMU runs without any privilege", async () => {
    const [pid] = await machineProcesses(world.config.dataDirectory);
    const status = await readFile(`/proc/${pid}/status`, "utf8");
    const value = (name: string): string => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1] ?? "";
    assert.equal(value("NoNewPrivs"), "1");
    assert.equal(value("Seccomp"), "2");
    assert.equal(BigInt(`0x${value("CapEff")}`), 0n);
    if (process.getuid?.() === 0) assert.ok(!value("Uid").split(/\s+/).includes("0"), value("Uid"));
  });

  test("a file belongs to the user, or to another on request, and a replaced file keeps its owner", async () => {
    await sandbox.files.write("owned/file", "1");
    assert.equal(await run("stat -c '%U:%G %a' ~/owned ~/owned/file"), "sandbox:sandbox 755\nsandbox:sandbox 644");
    const change = async (attributes: object): Promise<number> => {
      const response = await fetch(`${world.url}/api/sandboxes/${sandbox.sandboxId}/files?path=owned/file`, {
        method: "PATCH",
        headers: { "X-API-Key": world.apiKey },
        body: JSON.stringify(attributes),
      });
      return response.status;
    };
    assert.equal(await change({ owner: "root", group: "1000", mode: "640" }), 200);
    await sandbox.files.write("owned/file", "2");
    assert.equal(await run("stat -c '%U:%G %a' ~/owned/file; cat ~/owned/file"), "root:sandbox 640\n2");
    assert.equal(await change({ owner: "nobody-of-that-name" }), 400);
  });

  test("a full disk is reported, and the previous file stays", async () => {
    await sandbox.files.write("/dev/shm/precious", "before");
    await run(
      "sudo mkdir -p /mnt/small && sudo mount -t tmpfs -o size=1m,mode=1777 tmpfs /mnt/small && echo before > /mnt/small/file",
    );
    const response = await fetch(`${world.url}/api/sandboxes/${sandbox.sandboxId}/files?path=/mnt/small/file`, {
      method: "PUT",
      headers: { "X-API-Key": world.apiKey },
      body: new Uint8Array(4_000_000),
    });
    assert.equal(response.status, 429);
    assert.match(((await response.json()) as { error: string }).error, /disk of the sandbox is full/);
    assert.equal(await run("cat /mnt/small/file; ls -A /mnt/small"), "before\nfile");
  });

  test("a fork bomb leaves the agent answering", async () => {
    await sandbox.commands.run("bomb() { bomb | bomb & }; bomb; sleep 5", { timeout: 5 }).catch(() => undefined);
    assert.equal(await run("echo alive", 300), "alive");
  });

  test("a command that exhausts memory is killed, and the agent is not", async () => {
    const { exitCode } = await sandbox.commands.run("python3 -c 'x = bytearray(2 * 2**30); print(len(x))'", {
      timeout: 300,
    });
    assert.notEqual(exitCode, 0);
    assert.equal(await run("echo alive", 300), "alive");
  });
});
