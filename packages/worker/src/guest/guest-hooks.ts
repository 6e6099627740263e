import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HooksSchema } from "@opensandbox/wire/guest/messages_pb.js";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import type { GuestClient } from "./guest-client.ts";

/** When a guest runs programs of its own: those in `/etc/opensandbox/hooks/EVENT.d`. */
export type HookEvent = "before-hibernate" | "after-wake" | "after-fork";

/** A request to a guest to run hooks. */
export type GuestHooks = Omit<MessageInitShape<typeof HooksSchema>, "$typeName">;

/** Time for all hooks of an event, in milliseconds. The operation waits for them, and a hook that hangs must not stop it. */
const hooksTimeoutMs = 10_000;
/** How long the answer may follow the end of the hooks' time. */
const answerMs = 5000;

/** The hooks of one occurrence of the event. The guest runs them once, even when it is asked again. */
export function hooksOf(event: HookEvent): GuestHooks {
  return { event, timeoutMs: hooksTimeoutMs, runId: randomHex(8) };
}

/**
 * Hooks for a template: the guest's code for them runs, and no program. An image's own hooks are for the sandboxes that
 * are woken and forked.
 */
export const noHooks = { event: "none", timeoutMs: 0, runId: "none" } as const;

/**
 * Lets a running guest run its hooks of the event, and waits for them. An agent of an earlier version runs none.
 * @throws when the agent does not answer
 */
export async function runHooks(guest: GuestClient, event: HookEvent, signal: AbortSignal): Promise<void> {
  const until = AbortSignal.any([signal, AbortSignal.timeout(hooksTimeoutMs + answerMs)]);
  await guest.call(methods.configure, { hooks: hooksOf(event) }, until);
}
