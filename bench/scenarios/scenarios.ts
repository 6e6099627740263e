import type { Scenario } from "../bench.ts";
import { aroundCaptures } from "./around-captures.ts";
import { checkpointAndFork, checkpointPauses } from "./checkpoint-fork.ts";
import { createsFromReady } from "./creates-ready.ts";
import { createsAtOnce, createsByRestore, hundredAtOnce, restoresAhead } from "./creates.ts";
import { firstCommands } from "./first-commands.ts";
import { hibernateAndWake } from "./hibernate-wake.ts";
import { largeMachines } from "./large-machines.ts";
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
  firstCommands,
  createsAtOnce,
  hundredAtOnce,
  commands,
  transfers,
  terminals,
  previews,
  hibernateAndWake,
  ...checkpointPauses,
  checkpointAndFork,
  aroundCaptures,
  largeMachines,
  listOfMany,
  idleServer,
  oneMachine,
  serverWithMachines,
];
