import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { namesIn } from "../storage/names-in.ts";

/** Whether any disk of this host divides its bandwidth by weight: by the scheduler bfq, or by the v2 controller iocost. */
export async function ioWeightsAct(): Promise<boolean> {
  for (const device of await namesIn("/sys/block")) {
    const schedulers = await readFile(join("/sys/block", device, "queue/scheduler"), "utf8").catch(() => "");
    if (schedulers.includes("[bfq]")) return true;
  }
  const costs = await readFile("/sys/fs/cgroup/io.cost.qos", "utf8").catch(() => "");
  return costs.includes("enable=1");
}
