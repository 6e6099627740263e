import type { Client } from "./ours/client.ts";
import type { OurServer } from "./ours/server.ts";
import type { Kit } from "./floor/kit.ts";
import type { MemoryMover } from "./floor/memory-mover.ts";
import type { Natives } from "./floor/natives.ts";
import type { FigureName } from "./figures.ts";

export interface BenchOptions {
  readonly rounds: number;
  /** Names of the figures to measure; empty means all. */
  readonly only: readonly FigureName[];
  readonly image: "minimal" | "default";
  readonly quick: boolean;
}

/**
 * The kind of server. `plain` starts every machine on demand, `ready` keeps a pool of ready machines, and `fake` uses
 * plain processes for figures that need no machine.
 */
export type ServerKind = "plain" | "ready" | "fake";

export interface Ours {
  readonly server: OurServer;
  readonly client: Client;
}

/** What a scenario measures with. The run owns every object that it returns. */
export interface Bench {
  readonly options: BenchOptions;
  readonly accelerator: string;
  readonly natives: Natives;
  readonly mover: MemoryMover;
  readonly signal: AbortSignal;
  /** The server of that kind. Every call returns the same one. */
  ours(kind: ServerKind): Promise<Ours>;
  /** The kit of raw machines of this shape. Default: the shape of a create without options. */
  kit(memoryMB?: number): Promise<Kit>;
  /** A path that does not exist yet. */
  newPath(): string;
  freeMemoryMib(): number;
  report(step: string): void;
  /** Notes that a reader needs to interpret the figure, such as a reduced load. */
  note(name: FigureName, text: string): void;
}

/** Number of machines that a server of kind `ready` keeps. */
export const readySize = 2;

export type Side = "ours" | "floor";

/**
 * Records a measured value. `parts` break the time down, in milliseconds. Values of round 0 are warm-up and are
 * dropped.
 */
export type Keep = (
  name: FigureName,
  side: Side,
  round: number,
  value: number,
  parts?: Readonly<Record<string, number>>,
) => void;

/** Measures the figures that it names, and no others. */
export interface Scenario {
  readonly figures: readonly FigureName[];
  /** Why this host cannot measure it. */
  whyNot?(bench: Bench): string | undefined;
  run(bench: Bench, keep: Keep): Promise<void>;
}

/**
 * Measures both sides in turn and alternates their order, so that a disturbance of the host affects both alike. Round 0
 * is warm-up.
 */
export async function alternate(
  bench: Bench,
  what: string,
  rounds: number,
  ours: (round: number) => Promise<void>,
  floor: (round: number) => Promise<void>,
): Promise<void> {
  for (let round = 0; round <= rounds; round += 1) {
    bench.signal.throwIfAborted();
    bench.report(`${what}: ${round === 0 ? "warming up" : `round ${round} of ${rounds}`}`);
    for (const side of round % 2 === 0 ? [ours, floor] : [floor, ours]) await side(round);
  }
}
