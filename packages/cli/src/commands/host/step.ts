import type { z } from "zod";
import type { System } from "./system.ts";

/** How a host differs from the wanted state. */
export interface Difference {
  readonly detail: string;
  /** The remedy, when it is not `osb host setup`. */
  readonly fix?: string;
  /** The difference costs a feature or speed only. Setup and check succeed with it. */
  readonly optional?: true;
}

export interface Applying<Before> {
  /** State from before the first change by this step. Undefined: this step has changed nothing yet. */
  readonly before: Before | undefined;
  /** Records the data for an undo. Called before the change. */
  readonly remember: (before: Before) => Promise<void>;
}

/** One part of the set-up. `setup`, `check` and `remove` work through the same list of steps. */
export interface Step {
  readonly name: string;
  /** Compares the host with the wanted state and changes nothing. Undefined: the host is as wanted. */
  check(system: System, before: unknown): Promise<Difference | undefined>;
  /** Makes the host as wanted and says what it changed. Called only after a check that found a difference. */
  apply(system: System, applying: Applying<unknown>): Promise<string>;
  /** Returns the host to the state before, and says what it changed and what it kept. */
  undo(system: System, before: unknown): Promise<string>;
}

/** A step whose recorded state has the type that `schema` parses. */
export function defineStep<Before>(definition: {
  readonly name: string;
  readonly schema: z.ZodType<Before>;
  check(system: System, before: Before | undefined): Promise<Difference | undefined>;
  apply(system: System, applying: Applying<Before>): Promise<string>;
  undo(system: System, before: Before): Promise<string>;
}): Step {
  const { name, schema } = definition;
  const parsed = (before: unknown): Before | undefined => (before === undefined ? undefined : schema.parse(before));
  return {
    name,
    check: (system, before) => definition.check(system, parsed(before)),
    apply: (system, { before, remember }) => definition.apply(system, { before: parsed(before), remember }),
    undo: (system, before) => definition.undo(system, schema.parse(before)),
  };
}
