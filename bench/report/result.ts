import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Figure, FigureName } from "../figures.ts";
import type { Sample } from "../statistics/ratio.ts";

/** Raised when an older reader could not read the file. */
export const formatVersion = 1;

export interface Measured extends Sample {
  /** The parts of the time, in milliseconds. */
  readonly parts?: Readonly<Record<string, number>>;
}

export interface FigureResult extends Figure {
  readonly name: FigureName;
  readonly ours: readonly Measured[];
  readonly raw: readonly Measured[];
  /** Notes on how it was measured here. */
  readonly note?: string;
}

export interface HostFacts {
  readonly processor: string;
  readonly processors: number;
  readonly memoryMib: number;
  readonly kernel: string;
  readonly node: string;
  readonly hypervisor: string;
  readonly accelerator: string;
  readonly network: string;
  /** The load average of one minute at the start and at the end of the run, which shows other work of the host. */
  readonly loadBefore: number;
  readonly loadAfter: number;
}

/** One run with all its values: the input of a report and of a comparison. */
export interface BenchResult {
  readonly formatVersion: typeof formatVersion;
  readonly startedAt: string;
  readonly seconds: number;
  readonly options: { readonly rounds: number; readonly image: string; readonly quick: boolean };
  readonly host: HostFacts;
  readonly figures: readonly FigureResult[];
  readonly skipped: readonly { readonly name: FigureName; readonly because: string }[];
  /**
   * Failures: figures that could not be measured because something is broken. `log`: the last lines of the servers'
   * logs.
   */
  readonly failed: readonly { readonly names: readonly FigureName[]; readonly because: string; readonly log: string }[];
}

/** Reads the output of `--json`. @throws `invalid_argument` for a result of another version */
export function parseResult(file: string, text: string): BenchResult {
  try {
    const result = JSON.parse(text) as Partial<BenchResult>;
    if (result.formatVersion === formatVersion && Array.isArray(result.figures)) return result as BenchResult;
  } catch (cause) {
    throw new SandboxError("invalid_argument", `${file} is not JSON`, { cause });
  }
  throw new SandboxError("invalid_argument", `${file} was written by another version of the benchmark: measure again`);
}
