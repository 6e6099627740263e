// How far a cold boot through the API is from the same machine driven by hand: both in turn, in one run, so that a
// busy host slows both. Usage: node bench/cold-boot.ts [rounds]   (default 5; needs the image `minimal`)
//
// By hand means: QEMU spawned with the same arguments, image and disks by this file, the agent channel opened, `true`
// run. It uses the wire's codec and nothing of the worker.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { Channel } from "@opensandbox/wire/guest/channel.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { startWorld } from "../tests/e2e/world.ts";

const rounds = Number(process.argv[2] ?? 5);
await using world = await startWorld();
const headers = { "X-API-Key": world.apiKey, "Content-Type": "application/json" };

interface Boot {
  readonly total: number;
  readonly parts: Readonly<Record<string, number>>;
}

const ours: Boot[] = [];
const byHand: Boot[] = [];
// The first machine's own command line is what the raw one is started with: the same devices by construction.
for (let round = 0; round <= rounds; round += 1) {
  const boot = await bootThroughApi();
  const raw = await bootByHand(boot.argv);
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

async function bootThroughApi(): Promise<Boot & { readonly argv: readonly string[] }> {
  const since = performance.now();
  const created = await fetch(`${world.url}/api/sandboxes`, {
    method: "POST",
    headers,
    body: JSON.stringify({ templateID: "minimal" }),
  });
  if (created.status !== 201) throw new Error(await created.text());
  const { sandboxID: id } = (await created.json()) as { sandboxID: string };
  const afterCreate = performance.now();
  await fetch(`${world.url}/api/sandboxes/${id}/exec/run`, {
    method: "POST",
    headers,
    body: JSON.stringify({ cmd: "true" }),
  }).then((reply) => reply.json());
  const end = performance.now();
  const argv = commandLineOf(id);
  const parts: Record<string, number> = {};
  for (const [, name = "", milliseconds] of (created.headers.get("server-timing") ?? "").matchAll(
    /([\w-]+);dur=([\d.]+)/g,
  )) {
    parts[name] = Number(milliseconds);
  }
  const inGuest = await bootMarks(id);
  await fetch(`${world.url}/api/sandboxes/${id}`, { method: "DELETE", headers });
  return { total: end - since, parts: { ...parts, ...inGuest, "first command": end - afterCreate }, argv };
}

/** What the guest's own clock says of its start: seconds since the kernel's first instruction, in the kernel's log. */
async function bootMarks(id: string): Promise<Record<string, number>> {
  const reply = await fetch(`${world.url}/api/sandboxes/${id}/exec/run`, {
    method: "POST",
    headers,
    body: JSON.stringify({ cmd: "sudo dmesg | grep 'opensandbox:'" }),
  });
  const { stdout } = (await reply.json()) as { stdout: string };
  const marks: Record<string, number> = {};
  for (const [, seconds, name] of stdout.matchAll(/\[\s*([\d.]+)\] opensandbox: (.+)/g))
    marks[`guest clock: ${name}`] = Number(seconds) * 1000;
  return marks;
}

async function bootByHand(argv: readonly string[]): Promise<Boot> {
  const directory = mkdtempSync(join(tmpdir(), "osb-floor-"));
  try {
    const machine = /\/machines\/sb-[0-9a-f]{8}/;
    const own = argv.map((argument) =>
      argument
        .replaceAll(new RegExp(`[^",=]*${machine.source}`, "g"), directory)
        .replace(/^socket,id=(\w+),fd=\d+/, `socket,id=$1,path=${directory}/$1.sock`)
        .replace(/^tap,id=net0,.*/, "user,id=net0,ipv6=off"),
    );
    for (const disk of ["rootfs", "workspace"]) {
      execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", join(directory, `${disk}.qcow2`), "20G"]);
    }
    const since = performance.now();
    const [program = "", ...args] = own;
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
          channel.startEpoch(epoch, new Error("again") as never);
          void channel.sendHello({ version: "", instance: 0n });
        },
      },
    );
    socket.on("data", (chunk: Buffer) => channel.receive(chunk));
    await answered.promise;
    const agentUp = performance.now();
    const stream = channel.open(methods.exec, create(methods.exec.request, { argv: ["/bin/sh", "-c", "true"] }));
    while ((await stream.next()).kind !== "end");
    const end = performance.now();
    qemu.kill("SIGKILL");
    await once(qemu, "exit");
    return {
      total: end - since,
      parts: { qemu: qemuUp - since, "kernel to agent": agentUp - qemuUp, "first command": end - agentUp },
    };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function connected(path: string): Promise<ReturnType<typeof connect>> {
  for (;;) {
    const socket = connect(path);
    const up = await Promise.race([
      once(socket, "connect").then(() => true),
      once(socket, "error").then(() => false),
    ]).catch(() => false);
    if (up) return socket;
    await sleep(2);
  }
}

/** The arguments of the machine's QEMU. */
function commandLineOf(id: string): string[] {
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    let argv: string[];
    try {
      argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").slice(0, -1);
    } catch {
      continue;
    }
    if (argv.includes(`guest=${id}`)) return argv;
  }
  throw new Error(`no QEMU of ${id}`);
}

function print(title: string, boots: readonly Boot[]): void {
  process.stdout.write(
    `${title}: median ${median(boots.map(({ total }) => total)).toFixed(0)} ms of ${boots.length}\n`,
  );
  for (const name of Object.keys(boots[0]?.parts ?? {})) {
    process.stdout.write(
      `  ${name.padEnd(32)} ${median(boots.map(({ parts }) => parts[name] ?? Number.NaN))
        .toFixed(0)
        .padStart(6)} ms\n`,
    );
  }
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return ((sorted[(sorted.length - 1) >> 1] ?? Number.NaN) + (sorted[sorted.length >> 1] ?? Number.NaN)) / 2;
}
