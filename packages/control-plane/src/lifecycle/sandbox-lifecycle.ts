import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * The states of a sandbox and the moves between them. `restart` gives a sandbox another machine, either on the same disks
 * (power-cycle) or from a checkpoint (restore). `lost` and `adopted` come from reconciliation, when a control plane
 * starts.
 * `recovered` continues from a stored snapshot after the loss of a worker. `delete` leads out of every state but `stopped`, so that a row whose operation could not be recorded can still
 * be deleted. A create that fails leaves no row.
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
    recovered: "hibernated",
  },
  hibernating: {
    stored: "hibernated",
    failed: "running",
    delete: "stopping",
    lost: "error",
    adopted: "running",
    recovered: "hibernated",
  },
  hibernated: { wake: "waking", delete: "stopping", lost: "error", adopted: "running", recovered: "hibernated" },
  waking: { started: "running", failed: "hibernated", delete: "stopping", adopted: "running" },
  restarting: {
    started: "running",
    failed: "error",
    delete: "stopping",
    lost: "error",
    adopted: "running",
    recovered: "hibernated",
  },
  stopping: { delete: "stopping", stopped: "stopped", failed: "error" },
  stopped: {},
  error: { restart: "restarting", delete: "stopping", lost: "error", adopted: "running", recovered: "hibernated" },
} as const satisfies Record<string, Record<string, string>>;

export type SandboxState = keyof typeof moves;
export type Move = { [S in SandboxState]: keyof (typeof moves)[S] }[SandboxState];

/** The states in which a machine may exist: they count against the organization's limit. */
export const activeStates = ["creating", "running", "hibernating", "waking", "restarting", "stopping"] as const;

/** The states that last only as long as an operation. */
export const passingStates: readonly SandboxState[] = ["creating", "hibernating", "waking", "restarting", "stopping"];

/** The states that last. During an operation, a sandbox counts as being in the state before it. */
export type LastingState = "creating" | "running" | "hibernated" | "error" | "stopped";

/** The state itself when it lasts; undefined while an operation is under way. */
export function lastingState(state: SandboxState): LastingState | undefined {
  switch (state) {
    case "creating":
    case "running":
    case "hibernated":
    case "error":
    case "stopped":
      return state;
    case "hibernating":
    case "waking":
    case "restarting":
    case "stopping":
      return undefined;
  }
}

/** The state that a move leads to. @throws `wrong_state` when the move is not allowed */
export function next(state: SandboxState, move: Move): SandboxState {
  const to = (moves[state] as Partial<Record<Move, SandboxState>>)[move];
  if (to === undefined) throw wrongState(state, statesWith(move), `cannot ${move} a sandbox that is ${state}`);
  return to;
}

/** A refusal that names the present state and the states that would be accepted. */
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
