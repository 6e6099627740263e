import type { Scenario } from "../bench.ts";
import { checkpointAndFork, checkpointPauses } from "./checkpoint-fork.ts";
import { createsFromReady } from "./creates-ready.ts";
import { createsAtOnce, createsByRestore, restoresAhead } from "./creates.ts";
import { hibernateAndWake } from "./hibernate-wake.ts";
import { oneMachine, serverWithMachines } from "./host-cost.ts";
import { idleServer, listOfMany } from "./many-sandboxes.ts";
import { commands, previews, terminals, transfers } from "./running.ts";
import { timeToInteractive } from "./tti.ts";

/** The scenarios, in the order in which they are measured. */
export const scenarios: readonly Scenario[] = [
  createsFromReady,
  timeToInteractive,
  createsByRestore,
  restoresAhead,
  createsAtOnce,
  commands,
  transfers,
  terminals,
  previews,
  hibernateAndWake,
  ...checkpointPauses,
  checkpointAndFork,
  listOfMany,
  idleServer,
  oneMachine,
  serverWithMachines,
];
