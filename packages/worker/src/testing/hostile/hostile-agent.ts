// The agent of a fake machine, between the worker and a real guest agent. While it is loyal, it passes every byte on. A
// file `next` in the directory of the first argument turns the next agent that starts: its content is a `Turn`. The other
// arguments are those of the real agent.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, renameSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { encodeFrame, type Frame, FrameReader, frameTypes } from "@opensandbox/wire/guest/frame.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Hostility, type Line } from "./hostility.ts";
import { Random } from "./random.ts";
import type { Turn } from "./turn.ts";

const realAgent = join(import.meta.dirname, "../../../../guest-agent/src/main.ts");

const [directory = "", ...rest] = process.argv.slice(2);
const { values } = parseArgs({
  args: rest,
  options: { fake: { type: "boolean" }, home: { type: "string" }, socket: { type: "string" } },
});
const { socket: socketPath = "", home = "" } = values;
const realSocket = `${socketPath}.real`;
const turn = takeTurn();
// It ends with this process, which is killed with the machine.
const child = spawn(
  "setpriv",
  [
    ...["--pdeathsig", "KILL", process.execPath, "--disable-warning=ExperimentalWarning", realAgent],
    ...["--fake", "--home", home, "--socket", realSocket],
  ],
  { stdio: ["ignore", "inherit", "inherit"] },
);
child.once("exit", () => process.exit(1));
await eventually("the real agent listens", () => reachable(realSocket), { withinMs: 60_000, everyMs: 20 });
const server = createServer((worker) => serve(worker, connect(realSocket)));
server.listen(`${socketPath}.new`);
await once(server, "listening");
// The worker connects as soon as the file exists.
renameSync(`${socketPath}.new`, socketPath);

function takeTurn(): Turn | undefined {
  const taken = join(directory, `taken-${process.pid}`);
  try {
    renameSync(join(directory, "next"), taken);
  } catch {
    return undefined;
  }
  const text = readFileSync(taken, "utf8");
  rmSync(taken);
  return JSON.parse(text) as Turn;
}

function serve(worker: Socket, agent: Socket): void {
  for (const [side, other] of [
    [worker, agent],
    [agent, worker],
  ] as const) {
    side.on("error", () => side.destroy());
    side.on("close", () => other.destroy());
  }
  if (turn === undefined) {
    worker.pipe(agent);
    agent.pipe(worker);
  } else {
    betray(worker, agent, turn);
  }
}

function betray(worker: Socket, agent: Socket, { seed, manner, since }: Turn): void {
  const random = new Random(seed);
  const line: Line = {
    send: (bytes) => void (worker.destroyed || worker.write(bytes)),
    get isFree() {
      return !worker.destroyed && !worker.writableNeedDrain;
    },
    cut: () => worker.destroy(),
    pause: (paused) => void (paused ? worker.pause() : worker.resume()),
  };
  const hostility = new Hostility(random, manner, line);
  let hostile = since === "birth";
  let configured = 0;
  const fromWorker = new FrameReader();
  worker.on("data", (chunk: Buffer) => {
    for (const frame of fromWorker.push(chunk)) {
      if (!hostile && isConfigure(frame)) configured = frame.stream;
      // A loyal agent only learns the epoch.
      const passes = hostile || frame.type === frameTypes.hello ? hostility.fromWorker(frame) : true;
      if (passes) agent.write(encodeFrame(frame));
    }
  });
  const fromAgent = new FrameReader();
  agent.on("data", (chunk: Buffer) => {
    for (const frame of fromAgent.push(chunk)) {
      if (hostile) hostility.fromAgent(frame);
      else worker.write(encodeFrame(frame));
      if (configured !== 0 && frame.stream === configured && frame.type === frameTypes.end) hostile = true;
    }
  });
  const disturbing = setInterval(() => {
    if (hostile && random.chance(30)) hostility.disturb();
  }, 100);
  worker.on("close", () => {
    clearInterval(disturbing);
    hostility[Symbol.dispose]();
  });
}

function isConfigure({ type, tag }: Frame): boolean {
  return type === frameTypes.open && tag === methods.configure.id;
}

async function reachable(path: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const probe = connect(path, () => resolve(true));
  probe.on("error", () => resolve(false));
  const found = await promise;
  probe.destroy();
  return found;
}
