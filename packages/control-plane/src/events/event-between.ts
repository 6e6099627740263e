import type { EventFacts, StopReason } from "@opensandbox/wire/public/events.ts";
import type { LastingState } from "#lifecycle/sandbox-lifecycle.ts";

/** What a sandbox has from one event to the next. */
export interface Allocation {
  readonly state: LastingState;
  readonly memoryMib: number;
  readonly vcpus: number;
  readonly diskMib: number;
}

interface Shape {
  readonly image: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
}

/** What a sandbox of this shape has in this state: memory while it runs, disk until it is stopped. */
export function allocationIn(state: LastingState, { vcpus, memoryMib, workspaceMib }: Shape): Allocation {
  const runs = state === "running";
  const diskMib = state === "stopped" ? 0 : workspaceMib;
  return { state, memoryMib: runs ? memoryMib : 0, vcpus: runs ? vcpus : 0, diskMib };
}

/**
 * The event that leads from a sandbox's last event to its present state. Undefined when nothing happened that clients
 * are told. It compares the two, whatever the operations between them: an operation that a crash interrupted causes no
 * event, and one that only reconciliation completes causes the same event as any other. Pure. @param last absent for a
 * new sandbox, and for one that an earlier version made @param reason why it stopped, unless its machine ended by
 * itself
 */
export function eventBetween(
  last: Allocation | undefined,
  now: Allocation,
  { image, reason }: { readonly image: string; readonly reason: StopReason },
): EventFacts | undefined {
  switch (now.state) {
    case "creating":
      return last === undefined ? { type: "sandbox.created", data: { image } } : undefined;
    case "running": {
      if (last?.state === "creating") return { type: "sandbox.ready", data: {} };
      if (last?.state !== "running") return { type: "sandbox.resumed", data: {} };
      const { vcpus, memoryMib } = now;
      const isSame = last.vcpus === vcpus && last.memoryMib === memoryMib && last.diskMib === now.diskMib;
      return isSame ? undefined : { type: "sandbox.scaled", data: { vcpus, memoryMib } };
    }
    case "hibernated":
      return last?.state === "hibernated" ? undefined : { type: "sandbox.hibernated", data: {} };
    case "error":
      return last?.state === "error" ? undefined : { type: "sandbox.stopped", data: { reason: "crash" } };
    case "stopped":
      return { type: "sandbox.stopped", data: { reason } };
  }
}
