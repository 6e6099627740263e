import { collectBytes } from "#guest/collect.ts";
import { guestFiles } from "#guest/guest-files.ts";
import type { MetadataSource } from "#network/metadata-service.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { memoryMibOf } from "#machine/shape/hotplug.ts";
import type { Host } from "#machine/host.ts";
import type { LiveMachine } from "#machine/live-machine.ts";

/** Deadline of a read in the guest, which answers its own caller: /proc files take milliseconds. */
const readTimeoutMs = 5000;

/** Exceeds the size of these files by far. The limit is needed because the guest chooses what its agent answers. */
const maxFileBytes = 16 * 1024;

/** Answers what a guest asks about its own sandbox. */
export function metadataSource(live: LiveMachine, { id, vcpus }: StartSandbox, host: Host): MetadataSource {
  const seconds = (): number => Math.floor((Date.now() - (live.sandboxNetwork?.since ?? Date.now())) / 1000);
  return {
    status: () => ({ sandboxId: id, uptime: seconds() }),
    metadata: () => ({ region: host.region, template: live.image }),
    scale: async (body) => await host.guestRequests.ask(id, body),
    async limits() {
      const traffic = live.sandboxNetwork?.traffic();
      const [memory, load, limit] = await Promise.all([
        guestFile(live, "/proc/meminfo"),
        guestFile(live, "/proc/loadavg"),
        live.limits.memoryMib ?? memoryMibOf(live),
      ]);
      return {
        cpuPercent: live.limits.cpuPercent ?? vcpus * 100,
        memUsage: memoryUsage(memory),
        memLimit: limit * 2 ** 20,
        // The number of threads, as "running/all".
        pids: Number(/\d+\/(\d+)/.exec(load)?.[1] ?? 0),
        netInput: traffic?.receivedBytes ?? 0,
        netOutput: traffic?.sentBytes ?? 0,
      };
    },
  };
}

function memoryUsage(meminfo: string): number {
  const bytes = (name: string): number =>
    Number(new RegExp(`^${name}:\\s*(\\d+) kB`, "m").exec(meminfo)?.[1] ?? 0) * 1024;
  return bytes("MemTotal") - bytes("MemAvailable");
}

async function guestFile({ guest }: LiveMachine, path: string): Promise<string> {
  const range = { length: maxFileBytes };
  const { content } = await guestFiles(() => guest).read(path, range, AbortSignal.timeout(readTimeoutMs));
  const excess = (): SandboxError =>
    new SandboxError("unavailable", `the guest sent more of ${path} than was requested`);
  return (await collectBytes(content, { bytes: maxFileBytes, excess })).toString("latin1");
}
