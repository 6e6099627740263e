import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { MemberReport } from "@opensandbox/server/fleet.ts";
import { decideScale, type ScaleStep } from "./decide-scale.ts";
import {
  changeScaleSet,
  deleteMachine,
  listMachines,
  readScaleSet,
  runsOn,
  type ScaleSetTarget,
  upgradeTag,
} from "./workers/scale-set.ts";

/** The server of the fleet, as an operator uses it. */
export interface FleetOperator {
  listWorkers(): Promise<readonly MemberReport[]>;
  drainWorker(id: string): Promise<void>;
  admitWorker(id: string): Promise<void>;
  removeWorker(id: string): Promise<void>;
}

export interface Scaling extends ScaleSetTarget {
  readonly operator: FleetOperator;
  readonly min: number;
  readonly max: number;
}

/** Makes one step towards a number of workers that fits their load, and returns it. A timer repeats it. */
export async function scaleWorkers(scaling: Scaling, signal: AbortSignal): Promise<ScaleStep> {
  const { operator, min, max } = scaling;
  const { sku, capacity, tags } = await readScaleSet(scaling, signal);
  if (tags[upgradeTag] !== undefined) return { kind: "none", why: "an upgrade replaces the workers" };
  const step = decideScale({ workers: await operator.listWorkers(), capacity, min, max });
  switch (step.kind) {
    case "none":
      break;
    case "grow": {
      const result = await changeScaleSet(scaling, { sku: { ...sku, capacity: step.to } }, signal);
      if (!result.ok)
        throw new SandboxError(
          "unavailable",
          `cannot add machines to ${scaling.name}-workers: ${result.code}: ${result.message}`,
        );
      break;
    }
    case "drain":
      await operator.drainWorker(step.worker.id);
      break;
    case "admit":
      await operator.admitWorker(step.worker.id);
      break;
    case "remove":
      await removeMachine(scaling, step.worker, signal);
  }
  return step;
}

/** The machine first: a worker that still answers would join again. */
async function removeMachine(scaling: Scaling, worker: MemberReport, signal: AbortSignal): Promise<void> {
  const machine = (await listMachines(scaling, signal)).find((each) => runsOn(worker, each));
  if (machine !== undefined) await deleteMachine(scaling, machine.instanceId, signal);
  try {
    await scaling.operator.removeWorker(worker.id);
  } catch (error) {
    // The server notices within seconds that the machine is gone, and the next step removes the row.
    if (!(error instanceof SandboxError) || error.code !== "wrong_state") throw error;
  }
}
