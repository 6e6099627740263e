import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";

const directory = "/sys/devices/system/cpu";

/** Brings the first `count` processors online and takes the others offline. The first one is always online. */
export function setProcessors(count: number): void {
  // A range such as 0-7.
  const present = 1 + Number(/(\d+)\s*$/.exec(readFileSync(join(directory, "present"), "latin1"))?.[1]);
  if (count > present) {
    throw new SandboxError("invalid_argument", `cannot bring ${count} processors online: the machine has ${present}`);
  }
  for (let number = 1; number < present; number += 1) {
    const file = join(directory, `cpu${number}`, "online");
    const wanted = number < count ? "1" : "0";
    if (readFileSync(file, "latin1").trim() !== wanted) writeFileSync(file, wanted);
  }
}
