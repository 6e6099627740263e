import type { Manner } from "./hostility.ts";

/** How an agent turns against the worker. */
export interface Turn {
  /** Determines every choice, but not its timing. */
  readonly seed: number;
  readonly manner: Manner;
  /** `birth`: from the first byte. `start`: once the worker has given the machine its identity. */
  readonly since: "birth" | "start";
}
