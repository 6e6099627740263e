import type { Client } from "./ours/client.ts";
import type { OurServer } from "./ours/server.ts";
import type { Kit } from "./floor/kit.ts";
import type { MemoryMover } from "./floor/memory-mover.ts";
import type { Natives } from "./floor/natives.ts";
import type { FigureName } from "./figures.ts";

export interface BenchOptions {
  readonly rounds: number;
  /** Names of figures; none: all. */
  readonly only: readonly FigureName[];
  readonly image: "minimal" | "default";
  readonly quick: boolean;
}

/**
 * `plain` makes every machine when it is asked for; `ready` keeps some; `fake` has machines that are plain processes, for
 * what does not depend on machines.
 */
export type ServerKind = "plain" | "ready" | "fake";

export interface Ours {
  readonly server: OurServer;
  readonly client: Client;
}

/** What a scenario measures with. Everything that it gives is owned by the run. */
export interface Bench {
  readonly options: BenchOptions;
  readonly accelerator: string;
  readonly natives: Natives;
  readonly mover: MemoryMover;
  readonly signal: AbortSignal;
  /** A server of that kind, the same one each time. */
  ours(kind: ServerKind): Promise<Ours>;
  /** What raw machines of the shape are made of. Absent: the shape that a create has without asking. */
  kit(memoryMB?: number): Promise<Kit>;
  /** A path that nothing has yet. */
  newPath(): string;
  freeMemoryMib(): number;
  report(step: string): void;
  /** What a reader of the figure has to know of how it was measured here. */
  note(name: FigureName, text: string): void;
}

/** How many machines a server of kind `ready` keeps. */
export const readySize = 2;

export type Side = "ours" | "floor";

/** A measured value; `parts` are where the time went, in milliseconds. Those of round 0 warm up and are not kept. */
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
  /** Why it cannot be measured here. */
  whyNot?(bench: Bench): string | undefined;
  run(bench: Bench, keep: Keep): Promise<void>;
}

/**
 * Both sides in turn, in one order and then in the other, so that what disturbs the host disturbs both alike. Round 0
 * warms up.
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
