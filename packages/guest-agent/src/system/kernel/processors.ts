import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";

const directory = "/sys/devices/system/cpu";

/**
 * Makes the kernel interrupt processors instead of waiting for them to pass through a quiescent state, as it does
 * itself while it suspends. A processor that comes online or goes offline waits several times, which is two thirds of
 * the whole time.
 */
const expediting = "/sys/kernel/rcu_expedited";

/** Brings the first `count` processors online and takes the others offline. The first one is always online. */
export function setProcessors(count: number): void {
  // A range such as 0-7.
  const present = 1 + Number(/(\d+)\s*$/.exec(readFileSync(join(directory, "present"), "latin1"))?.[1]);
  if (count > present) {
    throw new SandboxError("invalid_argument", `cannot bring ${count} processors online: the machine has ${present}`);
  }
  const changes = Array.from({ length: present - 1 }, (_, index) => ({
    file: join(directory, `cpu${index + 1}`, "online"),
    wanted: index + 1 < count ? "1" : "0",
  })).filter(({ file, wanted }) => readFileSync(file, "latin1").trim() !== wanted);
  if (changes.length === 0) return;
  const grace = readFileSync(expediting, "latin1");
  writeFileSync(expediting, "1");
  try {
    for (const { file, wanted } of changes) writeFileSync(file, wanted);
  } finally {
    writeFileSync(expediting, grace);
  }
}
