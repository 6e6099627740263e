import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * The life of a sandbox: which move leads from which state to which. The states of hibernation stand for themselves
 * until their moves exist. A create that fails leaves no row at all.
 */
export const moves = {
  creating: { started: "running", failed: "error", abandoned: "stopped" },
  running: { delete: "stopping", crashed: "error", abandoned: "stopped" },
  hibernating: { abandoned: "stopped" },
  hibernated: { delete: "stopping" },
  waking: { abandoned: "stopped" },
  stopping: { delete: "stopping", stopped: "stopped", failed: "error", abandoned: "stopped" },
  stopped: {},
  error: { delete: "stopping" },
} as const satisfies Record<string, Record<string, string>>;

export type SandboxState = keyof typeof moves;
export type Move = { [S in SandboxState]: keyof (typeof moves)[S] }[SandboxState];

/** Those in which a machine may exist, so that they count against the limit. */
export const activeStates = ["creating", "running", "hibernating", "waking", "stopping"] as const;

export function next(state: SandboxState, move: Move): SandboxState {
  const to = (moves[state] as Partial<Record<Move, SandboxState>>)[move];
  if (to === undefined) {
    throw new SandboxError("wrong_state", `cannot ${move} a sandbox that is ${state}`, {
      resource: "sandbox",
      state,
      allowed: statesWith(move),
    });
  }
  return to;
}

function statesWith(move: Move): SandboxState[] {
  return (Object.keys(moves) as SandboxState[]).filter((state) => move in moves[state]);
}
