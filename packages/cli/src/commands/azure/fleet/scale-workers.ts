import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { MemberReport } from "@opensandbox/server/fleet.ts";
import type { Arm } from "../resource-manager/arm-client.ts";
import { getOf, groupPath, versions } from "../resource-manager/single-host.ts";
import { decideScale, type ScaleStep } from "./decide-scale.ts";

/** The server of the fleet, as an operator uses it. */
export interface FleetOperator {
  listWorkers(): Promise<readonly MemberReport[]>;
  drainWorker(id: string): Promise<void>;
  admitWorker(id: string): Promise<void>;
  removeWorker(id: string): Promise<void>;
}

export interface Scaling {
  readonly arm: Arm;
  readonly operator: FleetOperator;
  readonly subscription: string;
  readonly name: string;
  readonly min: number;
  readonly max: number;
}

/** Makes one step towards a number of workers that fits their load, and returns it. A timer repeats it. */
export async function scaleWorkers(scaling: Scaling, signal: AbortSignal): Promise<ScaleStep> {
  const { arm, operator, min, max } = scaling;
  const path = `${groupPath(scaling)}/providers/Microsoft.Compute/virtualMachineScaleSets/${scaling.name}-workers`;
  const set = { path, apiVersion: versions.compute };
  const { sku } = (await arm.require(getOf(set), signal)) as { readonly sku?: { readonly capacity?: number } };
  if (sku?.capacity === undefined) throw new SandboxError("unavailable", `${path} has no capacity`);
  const step = decideScale({ workers: await operator.listWorkers(), capacity: sku.capacity, min, max });
  switch (step.kind) {
    case "none":
      break;
    case "grow":
      await arm.require({ ...set, method: "PATCH", body: { sku: { ...sku, capacity: step.to } } }, signal);
      break;
    case "drain":
      await operator.drainWorker(step.worker.id);
      break;
    case "admit":
      await operator.admitWorker(step.worker.id);
      break;
    case "remove":
      await removeMachine(scaling, set, step.worker, signal);
  }
  return step;
}

/** The machine first: a worker that still answers would join again. */
async function removeMachine(
  { arm, operator }: Scaling,
  set: { readonly path: string; readonly apiVersion: string },
  { id, url }: MemberReport,
  signal: AbortSignal,
): Promise<void> {
  const machines = (await arm.list(getOf({ ...set, path: `${set.path}/virtualMachines` }), signal)) as Machine[];
  const host = new URL(url).hostname.toLowerCase();
  const machine = machines.find(({ properties }) => properties?.osProfile?.computerName?.toLowerCase() === host);
  if (machine !== undefined) {
    const body = { instanceIds: [machine.instanceId] };
    await arm.require({ ...set, method: "POST", path: `${set.path}/delete`, body }, signal);
  }
  try {
    await operator.removeWorker(id);
  } catch (error) {
    // The server notices within seconds that the machine is gone, and the next step removes the row.
    if (!(error instanceof SandboxError) || error.code !== "wrong_state") throw error;
  }
}

interface Machine {
  readonly instanceId: string;
  readonly properties?: { readonly osProfile?: { readonly computerName?: string } };
}
