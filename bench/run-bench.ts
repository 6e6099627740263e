import { chmod, mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, cpus, freemem, loadavg, release, totalmem } from "node:os";
import { join } from "node:path";
import { readConfig } from "@opensandbox/server";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import { killProcessesOf } from "../packages/worker/src/host/kill-by-path.ts";
import { removeLeftOverNetworks } from "../packages/worker/src/network/host-firewall.ts";
import { type Bench, type BenchOptions, type Keep, type Ours, readySize, type ServerKind } from "./bench.ts";
import { figureOf, figures, type FigureName } from "./figures.ts";
import { type Kit, kitOf } from "./floor/kit.ts";
import { startMemoryMover } from "./floor/memory-mover.ts";
import { compileNatives } from "./floor/natives.ts";
import { clientOf, observeTimings } from "./ours/client.ts";
import { killed, machinesReady } from "./ours/sandboxes.ts";
import { machineOf, startOurServer } from "./ours/server.ts";
import { type BenchResult, type FigureResult, formatVersion, type Measured } from "./report/result.ts";
import { scenarios } from "./scenarios/scenarios.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Measures the requested figures, ours and the floor in turn, on servers of its own. It leaves nothing behind, even
 * after an abort.
 */
export async function runBench(
  options: BenchOptions,
  env: Environment,
  report: (step: string) => void,
  signal: AbortSignal,
): Promise<BenchResult> {
  const since = performance.now();
  const startedAt = new Date().toISOString();
  const loadBefore = loadavg()[0] ?? 0;
  await using world = await openWorld(options, env, report, signal);
  const { bench } = world;
  const kept = new Map<FigureName, { readonly ours: Measured[]; readonly raw: Measured[] }>();
  const skipped: { name: FigureName; because: string }[] = [];
  const failed: BenchResult["failed"][number][] = [];
  const keep: Keep = (name, side, round, value, parts) => {
    if (round === 0) return;
    const found = kept.get(name) ?? { ours: [], raw: [] };
    kept.set(name, found);
    found[side === "ours" ? "ours" : "raw"].push({ round, value, ...(parts === undefined ? {} : { parts }) });
  };
  for (const scenario of scenarios) {
    const wanted = scenario.figures.filter((name) => options.only.length === 0 || options.only.includes(name));
    if (wanted.length === 0) continue;
    const because = scenario.whyNot?.(bench);
    if (because !== undefined) {
      skipped.push(...wanted.map((name) => ({ name, because })));
      continue;
    }
    try {
      // An abort does not wait for running calls: they end with the servers.
      await orAborted(scenario.run(bench, keep), signal);
    } catch (error) {
      signal.throwIfAborted();
      // The other figures can still be measured.
      const because = error instanceof Error ? error.message : String(error);
      failed.push({ names: wanted, because, log: await world.logs() });
    }
  }
  const { description } = (await bench.ours("plain")).server;
  return {
    formatVersion,
    startedAt,
    seconds: (performance.now() - since) / 1000,
    options: { rounds: options.rounds, image: options.image, quick: options.quick },
    host: {
      processor: cpus()[0]?.model ?? "",
      processors: availableParallelism(),
      memoryMib: Math.round(totalmem() / 2 ** 20),
      kernel: release(),
      node: process.version,
      hypervisor: `${description.hypervisor} ${description.hypervisorVersion}`,
      accelerator: description.accelerator.name,
      network: description.network.mode,
      loadBefore,
      loadAfter: loadavg()[0] ?? 0,
    },
    figures: (Object.keys(figures) as FigureName[]).flatMap((name): FigureResult[] => {
      const found = kept.get(name);
      const asked = options.only.length === 0 || options.only.includes(name);
      const note = world.notes.get(name);
      if (found === undefined || !asked) return [];
      return [{ name, ...figureOf(name), ...found, ...(note === undefined ? {} : { note }) }];
    }),
    skipped,
    failed,
  };
}

/** Parses names of figures, separated by commas. @throws `invalid_argument` for an unknown one */
export function parseFigureNames(text: string): readonly FigureName[] {
  const names = text.split(",").filter((name) => name !== "");
  const unknown = names.find((name) => !Object.hasOwn(figures, name));
  if (unknown !== undefined) {
    const known = Object.keys(figures).join(", ");
    throw new SandboxError("invalid_argument", `there is no figure "${unknown}": there are ${known}`);
  }
  return names as FigureName[];
}

interface World extends AsyncDisposable {
  readonly bench: Bench;
  readonly notes: ReadonlyMap<FigureName, string>;
  /** The last lines of each server's log. */
  logs(): Promise<string>;
}

async function openWorld(
  options: BenchOptions,
  env: Environment,
  report: (step: string) => void,
  signal: AbortSignal,
): Promise<World> {
  const { dataDirectory, imagesDirectory, templatesDirectory } = readConfig(env);
  await using undo = new AsyncDisposableStack();
  // On the file system of the data directory: images are linked from there, and servers write to it.
  const scratch = await makeScratch(dataDirectory);
  undo.defer(async () => {
    await killProcessesOf(scratch);
    await rm(scratch, { recursive: true, force: true });
    if (process.getuid?.() === 0) await removeLeftOverNetworks();
  });
  report("compiling the floor");
  const natives = await compileNatives(join(scratch, "native"), signal);
  const mover = undo.use(startMemoryMover(natives.memory));
  const timings = undo.use(observeTimings());
  const servers = undo.use(new AsyncDisposableStack());
  const logs: (() => Promise<string>)[] = [];
  const serverEnv = {
    ...env,
    OPENSANDBOX_IMAGES_DIR: imagesDirectory,
    OPENSANDBOX_TEMPLATES_DIR: templatesDirectory,
  };
  const ours = once(async (kind: ServerKind): Promise<Ours> => {
    report(`starting a server (${kind})`);
    const server = await startOurServer(join(scratch, kind), { ...serverEnv, ...envOf(kind) }, signal);
    servers.use(server);
    logs.push(() => server.log());
    const client = clientOf(server, kind === "fake" ? "minimal" : options.image, timings);
    return await warmedUp({ server, client }, kind, report, signal);
  });
  const kits = once(async (memoryMB: number | undefined): Promise<Kit> => {
    const { server, client } = await ours("plain");
    const sandbox = await client.create(memoryMB === undefined ? {} : { memoryMB });
    await using _ = killed(sandbox);
    const { directory, pid } = await machineOf(server, sandbox.sandboxId);
    return await kitOf(directory, pid, join(scratch, `kit-${memoryMB ?? "default"}`));
  });
  const notes = new Map<FigureName, string>();
  let paths = 0;
  const { description } = (await ours("plain")).server;
  const bench: Bench = {
    ...{ options, natives, mover, signal, report, ours },
    accelerator: description.accelerator.name,
    kit: (memoryMB) => kits(memoryMB),
    newPath: () => join(scratch, `raw-${(paths += 1)}`),
    freeMemoryMib: () => Math.floor(freemem() / 2 ** 20),
    note: (name, text) => void notes.set(name, text),
  };
  const owned = undo.move();
  return {
    ...{ bench, notes },
    logs: async () => (await Promise.all(logs.map((log) => log()))).join("\n"),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function makeScratch(dataDirectory: string): Promise<string> {
  const scratch = await mkdtemp(join(dataDirectory, "bench-"));
  // The users of the machines must be able to pass through this directory.
  await chmod(scratch, 0o711);
  return scratch;
}

function envOf(kind: ServerKind): Environment {
  const readyMachines = { OPENSANDBOX_READY_MACHINES: kind === "ready" ? `${readySize}` : "0" };
  if (kind !== "fake") return readyMachines;
  return { ...readyMachines, OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" };
}

/** The first create of a server builds images and templates, and starts to fill the pool. */
async function warmedUp(
  ours: Ours,
  kind: ServerKind,
  report: (step: string) => void,
  signal: AbortSignal,
): Promise<Ours> {
  report("the first sandbox of a server, which may have to build its image and its template");
  await (await ours.client.create()).kill();
  if (kind === "ready") await machinesReady(ours.server, readySize, signal);
  return ours;
}

/** One value for each key, created on first use. */
function once<Key, Value>(make: (key: Key) => Promise<Value>): (key: Key) => Promise<Value> {
  const made = new Map<Key, Promise<Value>>();
  return async (key) => {
    const present = made.get(key) ?? make(key);
    made.set(key, present);
    return await present;
  };
}
