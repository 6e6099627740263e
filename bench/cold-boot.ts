// Compares a boot through the API with a manual boot of the same machine. Both alternate in one run, so a busy host
// slows both. Usage: node bench/cold-boot.ts [rounds]   (default 5; needs the image `minimal`)
//
// Creating a sandbox restores a template and boots nothing, so the API side uses POST .../power-cycle, which also ends
// the previous machine. The manual side spawns QEMU with the same arguments and files, opens the agent channel and runs
// `true`. It uses the wire's codec and no code of the worker.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { Channel } from "@opensandbox/wire/guest/channel.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { machineProcesses } from "../tests/e2e/machine-processes.ts";
import { startWorld } from "../tests/e2e/world.ts";
import { commandRequest, rest } from "./floor/raw-agent.ts";

const rounds = Number(process.argv[2] ?? 5);
await using world = await startWorld();
const id = await createSandbox();

interface Boot {
  readonly total: number;
  /** Milliseconds of each part, in order. */
  readonly parts: Readonly<Record<string, number>>;
}

const ours: Boot[] = [];
const byHand: Boot[] = [];
for (let round = 0; round <= rounds; round += 1) {
  const boot = await bootThroughApi();
  const raw = await bootByHand();
  // The first round warms the page cache for both.
  if (round === 0) continue;
  ours.push(boot);
  byHand.push(raw);
  process.stderr.write(
    `round ${round}: through the API ${boot.total.toFixed(0)} ms, by hand ${raw.total.toFixed(0)} ms\n`,
  );
}
print("through the API", ours);
print("by hand", byHand);
const ratio = median(ours.map((boot, index) => boot.total / (byHand[index]?.total ?? Number.NaN)));
process.stdout.write(`ratio of each pair, median: ${ratio.toFixed(2)} (target: at most 1.15)\n`);

async function createSandbox(): Promise<string> {
  const reply = await ask("", { templateID: "minimal" });
  return (reply as { sandboxID: string }).sandboxID;
}

async function ask(path: string, body: object): Promise<unknown> {
  const response = await fetch(`${world.url}/api/sandboxes${path}`, {
    method: "POST",
    headers: { "X-API-Key": world.apiKey },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(text);
  return text === "" ? undefined : JSON.parse(text);
}

async function run(cmd: string): Promise<string> {
  return ((await ask(`/${id}/exec/run`, { cmd })) as { stdout: string }).stdout;
}

async function bootThroughApi(): Promise<Boot> {
  const since = performance.now();
  await ask(`/${id}/power-cycle`, {});
  const booted = performance.now();
  await run("true");
  const end = performance.now();
  return { total: end - since, parts: { ...(await guestParts()), "first command": end - booted } };
}

/**
 * Measured by the guest's own clock, which starts with the kernel's first instruction: see `mark` in
 * images/initramfs/init.
 */
async function guestParts(): Promise<Record<string, number>> {
  const log = await run(
    "sudo dmesg; echo agent $(sudo cat /proc/$(pgrep -f agent.mjs | head -1)/stat | cut -d' ' -f22)",
  );
  const at = (mark: string): number =>
    Number(new RegExp(`\\[\\s*([\\d.]+)\\] opensandbox: ${mark}`).exec(log)?.[1]) * 1000;
  // /proc/uptime counts hundredths of a second.
  const agent = Number(/^agent (\d+)/m.exec(log)?.[1]) * 10;
  return {
    "in the guest: kernel": at("kernel up"),
    "in the guest: disks": at("disks mounted") - at("kernel up"),
    "in the guest: network": at("network up") - at("disks mounted"),
    "in the guest: to the agent's start": agent - at("network up"),
  };
}

/** A boot takes seconds, or minutes on a crowded host without KVM. */
const bootsWithinMs = 600_000;

async function bootByHand(): Promise<Boot> {
  const [pid = 0] = await machineProcesses(world.config.dataDirectory);
  const theirs = join(
    world.config.dataDirectory,
    "machines",
    readdirSync(join(world.config.dataDirectory, "machines"))[0]!,
  );
  const directory = mkdtempSync(join(tmpdir(), "osb-floor-"));
  try {
    takeFiles(theirs, directory);
    const [program = "", ...args] = readFileSync(`/proc/${pid}/cmdline`, "utf8")
      .split("\0")
      .slice(0, -1)
      .map((argument) =>
        argument
          .replaceAll(theirs, directory)
          .replace(/^socket,id=(\w+),fd=\d+/, `socket,id=$1,path=${directory}/$1.sock`)
          .replace(/^tap,id=net0,.*/, "user,id=net0,ipv6=off"),
      );
    const since = performance.now();
    const qemu = spawn(program, args, { stdio: ["ignore", "ignore", "inherit"] });
    const socket = await connected(join(directory, "agent.sock"));
    const qemuUp = performance.now();
    let epoch = 0;
    const answered = Promise.withResolvers<void>();
    const channel: Channel = new Channel(
      {
        async write(bytes) {
          if (!socket.write(bytes)) await once(socket, "drain");
        },
      },
      {
        hello(_hello, of) {
          if (of !== 0 && of === epoch) return answered.resolve();
          epoch += 1;
          channel.startEpoch(epoch, new SandboxError("unavailable", "the guest's agent started again"));
          void channel.sendHello({ version: "", instance: 0n });
        },
      },
    );
    socket.on("data", (chunk: Buffer) => channel.receive(chunk));
    await within("the agent of the machine booted by hand answers", answered.promise, bootsWithinMs);
    const agentUp = performance.now();
    const stream = channel.open(
      methods.sessionCreate,
      create(methods.sessionCreate.request, commandRequest(["/bin/sh", "-c", "true"])),
    );
    await within("the first command ends", rest(stream), bootsWithinMs);
    const end = performance.now();
    qemu.kill("SIGKILL");
    await within("the killed QEMU ends", once(qemu, "exit"));
    return {
      total: end - since,
      parts: {
        QEMU: qemuUp - since,
        "guest, until the agent answers": agentUp - qemuUp,
        "first command": end - agentUp,
      },
    };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Links the immutable files and creates empty layers in place of the writable ones. */
function takeFiles(from: string, to: string): void {
  for (const name of readdirSync(from)) {
    const file = join(from, name);
    const { mode } = statSync(file);
    if (name.endsWith(".sock") || name.endsWith(".log")) continue;
    if ((mode & 0o222) === 0) {
      symlinkSync(file, join(to, name));
    } else if (name.endsWith(".qcow2")) {
      const { "virtual-size": size } = JSON.parse(
        execFileSync("qemu-img", ["info", "-U", "-f", "qcow2", "--output=json", file], { encoding: "utf8" }),
      ) as { "virtual-size": number };
      execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", join(to, name), `${size}`]);
    }
  }
}

async function connected(path: string): Promise<ReturnType<typeof connect>> {
  const attempt = async (): Promise<ReturnType<typeof connect> | undefined> => {
    const socket = connect(path);
    const isUp = await Promise.race([
      once(socket, "connect").then(() => true),
      once(socket, "error").then(() => false),
    ]).catch(() => false);
    return isUp ? socket : undefined;
  };
  return await eventually(`QEMU listens on ${path}`, attempt, { withinMs: 60_000, everyMs: 2 });
}

function print(title: string, boots: readonly Boot[]): void {
  process.stdout.write(
    `${title}: median ${median(boots.map(({ total }) => total)).toFixed(0)} ms of ${boots.length}\n`,
  );
  for (const name of Object.keys(boots[0]?.parts ?? {})) {
    process.stdout.write(
      `  ${name.padEnd(36)} ${median(boots.map(({ parts }) => parts[name] ?? Number.NaN))
        .toFixed(0)
        .padStart(6)} ms\n`,
    );
  }
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return ((sorted[(sorted.length - 1) >> 1] ?? Number.NaN) + (sorted[sorted.length >> 1] ?? Number.NaN)) / 2;
}
