import { type CgroupLimits, Cgroups } from "#host/cgroups/cgroups.ts";
import { findCgroups } from "#host/cgroups/find-cgroups.ts";
import type { Log } from "#host/log.ts";
import { asSandboxError } from "@opensandbox/wire/errors.ts";

/**
 * The limits of the guest-facing services: the weight of two machines, and memory and threads for a process and its spare
 * (maxMemoryBytes in network/services/main.ts).
 */
export const servicesLimits: CgroupLimits = { cpuWeight: 200, memoryBytes: 2560 * 2 ** 20, maxTasks: 64 };

/** Undefined where this process cannot make cgroups: then machines share the host without limits. */
export async function openCgroups(dataDirectory: string, log: Log): Promise<Cgroups | undefined> {
  const found = await findCgroups();
  const without = (why: object): undefined => {
    log("warn", "machines have no cgroups: one of them can take the host's memory and processors", why);
  };
  if (!("missing" in found)) return without({ reason: found.reason, fix: found.fix });
  try {
    return await Cgroups.open(found, dataDirectory);
  } catch (error) {
    return without({ reason: asSandboxError(error).message });
  }
}
