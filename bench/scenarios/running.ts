import { execFile } from "node:child_process";
import { request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { readFile } from "node:fs/promises";
import type { DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import { connect, type Client as Api } from "@opensandbox/sdk";
import { type Method, methods } from "@opensandbox/wire/guest/methods.ts";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { alternate, type Bench, type Ours, type Scenario } from "../bench.ts";
import { commandRequest, requestFrames, rest } from "../floor/raw-agent.ts";
import { RawMachine } from "../floor/raw-machine.ts";
import type { Sandbox } from "../ours/client.ts";
import { installed, killed, ran, ranTrue } from "../ours/sandboxes.ts";
import { Stopwatch } from "../stopwatch.ts";

/** A running sandbox and a running raw machine with the same programs and files. */
interface Pair extends AsyncDisposable, Ours {
  readonly sandbox: Sandbox;
  readonly machine: RawMachine;
}

async function pairOf(bench: Bench): Promise<Pair> {
  await using undo = new AsyncDisposableStack();
  const ours = await bench.ours("plain");
  const sandbox = await ours.client.create();
  undo.use(killed(sandbox));
  const [machine] = await RawMachine.restored(await bench.kit(), bench.newPath(), bench.mover);
  undo.use(machine);
  const owned = undo.move();
  return { ...ours, sandbox, machine, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Number of consecutive calls of a kind in a round. */
const calls = 10;

export const commands: Scenario = {
  figures: ["warm-exec", "native-spawn", "agent-exec", "agent-round-trip"],
  async run(bench, keep) {
    await using pair = await pairOf(bench);
    const { sandbox, machine } = pair;
    const spawn = await installed(sandbox, "spawn", bench.natives.spawn);
    const program = "/home/sandbox/spawn";
    await using native = await RawMachine.booted(await bench.kit(), bench.newPath());
    await native.agent.writeFile(program, await readFile(bench.natives.spawn), 0o755);
    using port = await native.addPort("native");
    // Devices belong to root, so root runs the program.
    const line = ["sudo", program, "serve", port.name, "/bin/sh", "-c", "true"];
    using _ = await native.agent.start(line, (output) => bench.report(`spawn: ${Buffer.from(output).toString()}`));
    const ours = async (round: number): Promise<void> => {
      for (let call = 0; call < calls; call += 1) {
        const watch = new Stopwatch();
        await ranTrue(sandbox);
        keep("warm-exec", "ours", round, watch.elapsed);
      }
    };
    const floor = async (round: number): Promise<void> => {
      // The published client also runs commands as lines of the shell.
      const timings = await ran(sandbox, `${spawn} ${calls} /bin/sh -c true`);
      for (const line of timings.trim().split("\n")) keep("native-spawn", "floor", round, Number(line) / 1000);
      for (let call = 0; call < calls; call += 1) {
        const asked = new Stopwatch();
        const exitCode = await port.ask();
        keep("warm-exec", "floor", round, asked.elapsed);
        if (exitCode !== 0) throw new Error(`the native program's command ended with ${exitCode}`);
        const watch = new Stopwatch();
        await machine.agent.run("/bin/sh", "-c", "true");
        keep("agent-exec", "floor", round, watch.elapsed);
        const ping = new Stopwatch();
        await machine.agent.ping();
        keep("agent-round-trip", "floor", round, ping.elapsed);
      }
    };
    await alternate(bench, "commands", bench.options.rounds, ours, floor);
  },
};

/** The promised load, reduced where it would take too long here. */
const maxMegabytes = 100;
const minMegabytes = 2;
const transferSeconds = { quick: 2, full: 8 };
const transferRounds = 5;

export const transfers: Scenario = {
  figures: ["exec-stream", "file-up", "file-down"],
  async run(bench, keep) {
    await using pair = await pairOf(bench);
    const { sandbox, machine, server } = pair;
    // The published client can attach only to a running command, and then receives the last mebibyte of its output.
    const api = connect({ url: server.url, apiKey: server.apiKey });
    await using native = await RawMachine.booted(await bench.kit(), bench.newPath());
    const socket = await native.addOpenPort("transfer");
    const program = "/home/sandbox/transfer-native";
    await native.agent.writeFile(program, await readFile(bench.natives.transfer), 0o755);
    const file = "/home/sandbox/transfer";
    // Devices belong to root, so root runs the program.
    const serve = ["sudo", program, "serve", "transfer", file];
    using _ = await native.agent.start(serve, (output) => bench.report(`transfer: ${Buffer.from(output).toString()}`));
    const bytes = await transferBytes(bench, machine);
    for (const name of transfers.figures) bench.note(name, `${bytes / 1e6} MB`);
    const content = Buffer.alloc(bytes, "OpenSandbox ");
    const line = ["head", "-c", `${bytes}`, "/dev/zero"];
    const perSecond = (milliseconds: number): number => bytes / 1000 / milliseconds;

    const ours = async (round: number): Promise<void> => {
      const up = new Stopwatch();
      await sandbox.files.write(file, content);
      keep("file-up", "ours", round, perSecond(up.elapsed));
      const down = new Stopwatch();
      const read = await sandbox.files.readBytes(file);
      keep("file-down", "ours", round, perSecond(down.elapsed));
      expectBytes(read.length, bytes);
      const stream = new Stopwatch();
      const streamed = await bytesStreamed(api.exec, sandbox.sandboxId, line);
      keep("exec-stream", "ours", round, perSecond(stream.elapsed));
      expectBytes(streamed, bytes);
      await sandbox.files.remove(file);
    };
    const floor = async (round: number): Promise<void> => {
      const moved = async (...how: readonly string[]): Promise<number> => {
        const [found, milliseconds] = await measured(bench, bench.natives.transfer, how);
        expectBytes(found, bytes);
        return perSecond(milliseconds);
      };
      keep("file-up", "floor", round, await moved("give", socket, `${bytes}`));
      keep("file-down", "floor", round, await moved("take", socket));
      machine.hangUp();
      const [streamed, milliseconds] = await overChannel(bench, machine, methods.sessionCreate, commandRequest(line));
      expectBytes(streamed, bytes);
      keep("exec-stream", "floor", round, perSecond(milliseconds));
      await machine.callAgain();
    };
    await alternate(bench, "transfers", Math.min(transferRounds, bench.options.rounds), ours, floor);
  },
};

/** The number of bytes that the raw channel moves within the time limit. */
async function transferBytes(bench: Bench, machine: RawMachine): Promise<number> {
  const file = "/home/sandbox/probe";
  const content = Buffer.alloc(minMegabytes * 1e6);
  const watch = new Stopwatch();
  await machine.agent.writeFile(file, content, 0o644);
  const perSecond = (minMegabytes * 1000) / watch.elapsed;
  await machine.agent.run("rm", file);
  const fitting = Math.round(perSecond * (bench.options.quick ? transferSeconds.quick : transferSeconds.full));
  return Math.max(minMegabytes, Math.min(maxMegabytes, fitting)) * 1e6;
}

/** The guest polls for a host every tenth of a second, so it needs that long to notice a new one. */
const hangUpMs = 300;

async function overChannel<Request extends DescMessage>(
  bench: Bench,
  machine: RawMachine,
  method: Method<Request>,
  request: MessageInitShape<Request>,
): Promise<readonly [bytes: number, milliseconds: number]> {
  await sleep(hangUpMs);
  return await measured(bench, bench.natives.channel, [machine.agentSocket, "take"], requestFrames(method, request));
}

/** Runs a program that prints the bytes that it has moved, and microseconds. */
async function measured(
  { signal }: Bench,
  program: string,
  how: readonly string[],
  input?: Uint8Array,
): Promise<readonly [bytes: number, milliseconds: number]> {
  const running = promisify(execFile)(program, how, { signal, timeout: measuredTimeoutMs });
  running.child.stdin?.end(input);
  const { stdout } = await running;
  const [bytes = 0, microseconds = 0] = stdout.trim().split(" ").map(Number);
  return [bytes, microseconds / 1000];
}

const measuredTimeoutMs = 300_000;

async function bytesStreamed(exec: Api["exec"], id: string, [cmd = "", ...args]: readonly string[]): Promise<number> {
  const { output, exitCode } = await exec.stream(id, { cmd, args });
  let bytes = 0;
  for await (const part of output) bytes += part.bytes.length;
  if ((await exitCode) !== 0) throw new Error(`${cmd} ends with ${await exitCode}`);
  return bytes;
}

function expectBytes(found: number, expected: number): void {
  if (found !== expected) throw new Error(`${found} bytes arrived of ${expected}`);
}

export const terminals: Scenario = {
  figures: ["terminal-echo"],
  async run(bench, keep) {
    await using pair = await pairOf(bench);
    const { sandbox, machine } = pair;
    const heard = new Echo();
    const terminal = await sandbox.pty.create({ onOutput: (bytes) => heard.output(bytes) });
    await using ends = new AsyncDisposableStack();
    ends.defer(() => terminal.close());
    const rawHeard = new Echo();
    const raw = await machine.agent.open(methods.sessionCreate, {
      ...{ id: "bench", attach: true, terminal: { columns: 80, rows: 24 }, command: { argv: ["/bin/bash"] } },
    });
    const read = async (): Promise<void> => {
      for (;;) {
        const incoming = await raw.next();
        if (incoming.kind === "data") rawHeard.output(incoming.payload);
        if (incoming.kind === "end") return;
      }
    };
    // The stream ends with the machine.
    read().catch(() => undefined);
    await Promise.all([heard.silence(), rawHeard.silence()]);

    const ours = async (round: number): Promise<void> => {
      for (let call = 0; call < calls; call += 1) {
        keep("terminal-echo", "ours", round, await heard.after(() => terminal.send("x")));
      }
    };
    const floor = async (round: number): Promise<void> => {
      for (let call = 0; call < calls; call += 1) {
        keep("terminal-echo", "floor", round, await rawHeard.after(() => void raw.sendData(0, Buffer.from("x"))));
      }
    };
    await alternate(bench, "keys in a terminal", bench.options.rounds, ours, floor);
  },
};

/** A shell that is silent for this long has finished its prompt. */
const promptMs = 1000;
const echoTimeoutMs = 60_000;

/** Waits for output of a terminal. */
class Echo {
  #heard: (() => void) | undefined;
  #last = performance.now();

  output(bytes: Uint8Array): void {
    this.#last = performance.now();
    if (bytes.includes("x".charCodeAt(0))) this.#heard?.();
  }

  async silence(): Promise<void> {
    // The first prompt takes longer than those that follow.
    await sleep(promptMs);
    const isSilent = (): boolean => performance.now() - this.#last >= promptMs;
    await eventually("the terminal finishes its prompt", isSilent, { withinMs: 120_000, everyMs: 20 });
  }

  /** Milliseconds from the key to its echo. */
  async after(press: () => void): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#heard = resolve;
    const timer = setTimeout(() => reject(new Error("the terminal does not echo")), echoTimeoutMs);
    const watch = new Stopwatch();
    press();
    try {
      await promise;
      return watch.elapsed;
    } finally {
      clearTimeout(timer);
    }
  }
}

const port = 8000;

export const previews: Scenario = {
  figures: ["preview"],
  async run(bench, keep) {
    await using pair = await pairOf(bench);
    const { sandbox, machine, server } = pair;
    const program = await installed(sandbox, "answer", bench.natives.answer);
    const session = await sandbox.exec.start(program, { args: [`${port}`] });
    await machine.agent.writeFile("/home/sandbox/answer", await readFile(bench.natives.answer), 0o755);
    using _raw = await machine.agent.start(["/home/sandbox/answer", `${port}`], () => undefined);
    const host = sandbox.getPreviewDomain(port);

    const ours = async (round: number): Promise<void> => {
      for (let call = 0; call < calls; call += 1) {
        const watch = new Stopwatch();
        await expectOk(() => asked(server.url, host));
        keep("preview", "ours", round, watch.elapsed);
      }
    };
    const floor = async (round: number): Promise<void> => {
      for (let call = 0; call < calls; call += 1) {
        const watch = new Stopwatch();
        await expectOk(() => askedRaw(machine));
        keep("preview", "floor", round, watch.elapsed);
      }
    };
    await alternate(bench, "requests to a server in the guest", bench.options.rounds, ours, floor);
    await session.kill();
  },
};

async function expectOk(ask: () => Promise<string>): Promise<void> {
  const answer = await ask();
  if (answer !== "ok") throw new Error(`the server in the guest answers "${answer.slice(0, 200)}"`);
}

/** A request by the host name of the sandbox's port, sent to the server's address. */
async function asked(url: string, host: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const asking = request(url, { headers: { host } }, (response) => {
    const parts: Buffer[] = [];
    response.on("data", (part: Buffer) => parts.push(part));
    response.on("end", () => resolve(Buffer.concat(parts).toString("utf8")));
    response.on("error", reject);
  });
  asking.on("error", reject);
  asking.end();
  return await within("the server in the sandbox answers", promise);
}

async function askedRaw({ agent }: RawMachine): Promise<string> {
  const stream = await agent.open(methods.connect, { port });
  await stream.sendData(0, Buffer.from(`GET / HTTP/1.1\r\nHost: localhost:${port}\r\nConnection: close\r\n\r\n`));
  const { data } = await within("the server in the raw machine answers", rest(stream));
  return data.split("\r\n\r\n")[1] ?? "";
}
