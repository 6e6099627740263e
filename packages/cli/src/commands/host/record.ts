import { z } from "zod";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { type HostOptions, roles } from "./options.ts";
import type { System } from "./system.ts";

const hostOptions = z.object({
  dataDisk: z.string(),
  firewall: z.boolean(),
  // Records of releases without roles lack it.
  role: z.enum(roles).default("combined"),
  join: z.string().optional(),
  acme: z.object({ email: z.string(), hook: z.string(), directory: z.string().optional() }).optional(),
  settings: z.record(z.string(), z.string()),
});

/** Records the changes of a set-up, for a later check and the removal. */
export const recordFile = "/etc/opensandbox/setup.json";

const schema = z.object({
  version: z.literal(1),
  options: hostOptions,
  /** The undo data of each step, by the step's name. */
  steps: z.record(z.string(), z.unknown()),
});
export interface SetupRecord {
  readonly options: HostOptions;
  readonly steps: Readonly<Record<string, unknown>>;
}

/** Undefined on a host that was not set up. @throws `unavailable` for a file of another format */
export async function readRecord(system: System): Promise<SetupRecord | undefined> {
  const text = await system.read(recordFile);
  if (text === undefined) return undefined;
  try {
    return schema.parse(JSON.parse(text));
  } catch (cause) {
    const message = `cannot read ${recordFile}: another version wrote it, or it is damaged. Use the version that set up this host`;
    throw new SandboxError("unavailable", message, { cause });
  }
}

export async function writeRecord(system: System, { options, steps }: SetupRecord): Promise<void> {
  await system.write(recordFile, `${JSON.stringify({ version: 1, options, steps }, undefined, 2)}\n`, 0o600);
}
