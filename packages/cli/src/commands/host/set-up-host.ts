import { SandboxError } from "@opensandbox/wire/errors.ts";
import { everyStep, hostSteps } from "./host-steps.ts";
import { dataDirectory, defaultOptions, type HostOptions } from "./options.ts";
import { readRecord, recordFile, type SetupRecord, writeRecord } from "./record.ts";
import type { Difference, Step } from "./step.ts";
import { dataDeviceOf, dataDiskStep } from "./steps/data-disk.ts";
import { requireSupported } from "./supported-host.ts";
import type { System } from "./system.ts";

export interface HostFinding {
  readonly step: string;
  /** `optional`: the difference costs a feature or speed only. */
  readonly state: "ok" | "optional" | "different";
  readonly detail?: string;
  /** The remedy of a difference. */
  readonly fix?: string;
}

export interface StepDone {
  readonly step: string;
  /** Undefined: there was nothing to do. */
  readonly done?: string;
}

export interface SetUp {
  readonly system: System;
  /** The absolute path of the program `opensandbox`. */
  readonly launcher: string;
  /** The choices of this set-up. Absent ones are those of the last set-up. */
  readonly options: Partial<HostOptions>;
  /** Leaves out the steps of the service, for an image of hosts. */
  readonly onlyPrepare?: boolean;
  readonly onStep: (step: StepDone) => void;
}

/**
 * Brings the host to the state that every step wants, and records each change before it happens. A repeated set-up
 * changes nothing, and continues where an interrupted one ended. @throws `not_supported` on another system, and the
 * error of the step that fails
 */
export async function setUpHost(
  { system, launcher, options, onlyPrepare = false, onStep }: SetUp,
  signal: AbortSignal,
): Promise<StepDone[]> {
  await requireSupported(system);
  const earlier = await readRecord(system);
  const merged = mergeOptions(earlier?.options, options);
  let record: SetupRecord = { options: merged, steps: earlier?.steps ?? {} };
  await writeRecord(system, record);
  const all: StepDone[] = [];
  for (const step of stepsFor(merged, launcher, onlyPrepare)) {
    signal.throwIfAborted();
    const difference = await step.check(system, record.steps[step.name]);
    let done: StepDone = { step: step.name };
    if (isRequired(difference)) {
      const remember = async (before: unknown): Promise<void> => {
        record = { ...record, steps: { ...record.steps, [step.name]: before } };
        await writeRecord(system, record);
      };
      done = { step: step.name, done: await step.apply(system, { before: record.steps[step.name], remember }) };
    }
    onStep(done);
    all.push(done);
  }
  return all;
}

/** Compares the host with what a set-up with these options would make of it. Changes nothing. */
export async function checkHost({
  system,
  launcher,
  options,
  onlyPrepare = false,
  program,
}: Omit<SetUp, "onStep"> & { readonly program: string }): Promise<HostFinding[]> {
  await requireSupported(system);
  const record = await readRecord(system);
  const findings: HostFinding[] = [];
  for (const step of stepsFor(mergeOptions(record?.options, options), launcher, onlyPrepare)) {
    findings.push(findingOf(step, await step.check(system, record?.steps[step.name]), program));
  }
  return findings;
}

/** The parts of a host that do not depend on its service. */
const preparations = new Set(["packages", "kernel modules", "devices", "kernel settings", "data disk", "command"]);

function stepsFor(options: HostOptions, launcher: string, onlyPrepare: boolean): readonly Step[] {
  return hostSteps(options, launcher).filter(({ name }) => !onlyPrepare || preparations.has(name));
}

function findingOf({ name }: Step, difference: Difference | undefined, program: string): HostFinding {
  if (difference === undefined) return { step: name, state: "ok" };
  const { detail, fix } = difference;
  if (!isRequired(difference)) return { step: name, state: "optional", detail, ...(fix === undefined ? {} : { fix }) };
  return { step: name, state: "different", detail, fix: fix ?? `sudo ${program} host setup` };
}

/** Whether a set-up has to change something. */
function isRequired(difference: Difference | undefined): difference is Difference {
  return difference !== undefined && difference.optional !== true;
}

/**
 * Undoes the changes of all set-ups, the last one first. Keeps the data directory, and files that were edited since.
 * @returns undefined on a host that was not set up
 */
export async function removeFromHost(
  { system, launcher, onStep }: Pick<SetUp, "system" | "launcher" | "onStep">,
  signal: AbortSignal,
): Promise<StepDone[] | undefined> {
  let record = await readRecord(system);
  if (record === undefined) return undefined;
  const all: StepDone[] = [];
  for (const step of recordedSteps(record, launcher)) {
    signal.throwIfAborted();
    const done = { step: step.name, done: await step.undo(system, record.steps[step.name]) };
    const { [step.name]: _, ...steps } = record.steps;
    record = { ...record, steps };
    await writeRecord(system, record);
    onStep(done);
    all.push(done);
  }
  const unknown = Object.keys(record.steps);
  if (unknown.length > 0) {
    const message = `cannot undo ${unknown.join(", ")}: another version made these changes. ${recordFile} lists them`;
    throw new SandboxError("not_supported", message);
  }
  await system.remove(recordFile);
  await system.removeEmpty("/etc/opensandbox");
  return all;
}

/** The data that a removal keeps, and the command that deletes it afterwards. */
export async function keptData(
  system: System,
): Promise<readonly { readonly place: string; readonly deletion: string }[]> {
  const device = dataDeviceOf((await readRecord(system))?.steps[dataDiskStep]);
  if (device !== undefined) return [{ place: device, deletion: `wipefs --all ${device}` }];
  if ((await system.entries(dataDirectory)).length === 0) return [];
  return [{ place: dataDirectory, deletion: `rm -r ${dataDirectory}` }];
}

/** The names of the steps that a removal would undo, in its order. Undefined on a host that was not set up. */
export async function plannedRemoval({
  system,
  launcher,
}: Pick<SetUp, "system" | "launcher">): Promise<string[] | undefined> {
  const record = await readRecord(system);
  return record && recordedSteps(record, launcher).map(({ name }) => name);
}

function recordedSteps(record: SetupRecord, launcher: string): readonly Step[] {
  return everyStep(record.options, launcher)
    .filter(({ name }) => record.steps[name] !== undefined)
    .toReversed();
}

function mergeOptions(earlier: HostOptions = defaultOptions, given: Partial<HostOptions>): HostOptions {
  return { ...earlier, ...given, settings: { ...earlier.settings, ...given.settings } };
}
