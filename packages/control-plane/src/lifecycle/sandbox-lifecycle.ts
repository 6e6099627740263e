import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * The life of a sandbox: which move leads from which state to which. `restart` gives a sandbox another machine, either
 * on the same disks (power-cycle) or from a checkpoint (restore). `lost` and `adopted` are what a start of the control
 * plane finds of sandboxes whose worker is gone. `delete` leads out of every state, also out of one that an operation
 * has left behind because the database could not be written to. A create that fails leaves no row at all.
 */
export const moves = {
  creating: { started: "running", failed: "error", delete: "stopping" },
  running: {
    hibernate: "hibernating",
    restart: "restarting",
    delete: "stopping",
    crashed: "error",
    lost: "error",
    adopted: "running",
  },
  hibernating: { stored: "hibernated", failed: "running", delete: "stopping", lost: "error", adopted: "running" },
  hibernated: { wake: "waking", delete: "stopping", lost: "error", adopted: "running" },
  waking: { started: "running", failed: "hibernated", delete: "stopping", adopted: "running" },
  restarting: { started: "running", failed: "error", delete: "stopping", lost: "error", adopted: "running" },
  stopping: { delete: "stopping", stopped: "stopped", failed: "error" },
  stopped: {},
  error: { restart: "restarting", delete: "stopping", lost: "error", adopted: "running" },
} as const satisfies Record<string, Record<string, string>>;

export type SandboxState = keyof typeof moves;
export type Move = { [S in SandboxState]: keyof (typeof moves)[S] }[SandboxState];

/** Those in which a machine may exist, so that they count against the limit. */
export const activeStates = ["creating", "running", "hibernating", "waking", "restarting", "stopping"] as const;

/** Those that last only as long as an operation. */
export const passingStates: readonly SandboxState[] = ["creating", "hibernating", "waking", "restarting", "stopping"];

export function next(state: SandboxState, move: Move): SandboxState {
  const to = (moves[state] as Partial<Record<Move, SandboxState>>)[move];
  if (to === undefined) throw wrongState(state, statesWith(move), `cannot ${move} a sandbox that is ${state}`);
  return to;
}

/** The refusal that names the state as it is. */
export function wrongState(
  state: SandboxState,
  allowed: readonly SandboxState[],
  message: string,
): SandboxError<"wrong_state"> {
  return new SandboxError("wrong_state", message, { resource: "sandbox", state, allowed });
}

function statesWith(move: Move): SandboxState[] {
  return (Object.keys(moves) as SandboxState[]).filter((state) => move in moves[state]);
}
