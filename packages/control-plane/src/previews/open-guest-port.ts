import { setTimeout as sleep } from "node:timers/promises";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { PortConnection } from "@opensandbox/wire/worker/ports.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";

/** Pauses between attempts in milliseconds, 1.75 s in all: a server that was just started needs a moment to listen. */
const pauses = [50, 100, 200, 400, 500, 500];

/** Connects to a port of a running sandbox, in up to seven attempts. @throws `not_found` when nothing listens */
export async function openGuestPort(
  worker: Worker,
  id: SandboxId,
  port: number,
  signal: AbortSignal,
): Promise<PortConnection> {
  for (const pause of pauses) {
    try {
      return await worker.guest(id).ports.open(port, signal);
    } catch (error) {
      if (!isSandboxError(error, "not_found")) throw error;
      await sleep(pause, undefined, { signal });
    }
  }
  return worker.guest(id).ports.open(port, signal);
}
