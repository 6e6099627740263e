import { z } from "zod";

const memoryRule = "memoryMB must be a multiple of 128 from 256 to 65536";

/** The memory of a machine, in MiB. */
export const memoryMb = memoryField("memoryMB");

/** The memory of a machine as the field `name`, in MiB. */
export function memoryField(name: string): z.ZodNumber {
  const rule = memoryRule.replace("memoryMB", name);
  return z.number(rule).multipleOf(128, rule).min(256, rule).max(65_536, rule);
}
