import type { VmSpec } from "../hypervisor.ts";
import { guestVisible, type QemuHost } from "./command-line.ts";

/**
 * The machine that a guest of `spec` sees: QEMU's version, the host's processor (empty under a named model and under
 * TCG), and the arguments of {@link guestVisible}. Snapshots store this text, so its form stays.
 */
export function compatibilityOf(spec: VmSpec, host: QemuHost & { readonly version: string }): string {
  return JSON.stringify([`qemu ${host.version}`, host.processor, ...guestVisible(spec, host)]);
}

/** How two texts of {@link compatibilityOf} differ, for people. */
export function describeDifference(captured: string, offered: string): string {
  const [was, is] = [partsOf(captured), partsOf(offered)];
  if (was === undefined || is === undefined) return "it was captured by another hypervisor";
  if (was.accelerator !== is.accelerator) {
    return `it was captured under ${was.accelerator}, and this host's machines run under ${is.accelerator}`;
  }
  if (was.cpuModel !== is.cpuModel) {
    return (
      `its guest has the processor model ${was.cpuModel}, and guests of this host have ${is.cpuModel}. ` +
      `A server with OPENSANDBOX_CPU_MODEL=${was.cpuModel} restores it`
    );
  }
  if (was.processor !== is.processor) return processorDifference(was.processor, is.processor);
  if (was.version !== is.version) return `it was captured by ${was.version}, and this host has ${is.version}`;
  return "its machine has other devices or another shape";
}

interface Parts {
  readonly version: string;
  readonly processor: string;
  readonly accelerator: string;
  readonly cpuModel: string;
}

/** The order is that of the command line: machine type, accelerator, processor. */
function partsOf(compatibility: string): Parts | undefined {
  let parts: unknown;
  try {
    parts = JSON.parse(compatibility);
  } catch {
    return undefined;
  }
  if (!Array.isArray(parts)) return undefined;
  const [version, processor, , accelerator, cpu] = parts as readonly unknown[];
  if (![version, processor, accelerator, cpu].every((part) => typeof part === "string")) return undefined;
  const name = (text: unknown): string => String(text).split(",")[0] ?? "";
  return {
    version: String(version),
    processor: String(processor),
    accelerator: name(accelerator),
    cpuModel: name(cpu),
  };
}

/** Compares two texts of `describeProcessor`: model name, stepping and flags. */
function processorDifference(captured: string, offered: string): string {
  const [was, is] = [captured, offered].map((text) => text.split("; "));
  const [name = "", , flags = ""] = was ?? [];
  const [ownName = "", , ownFlags = ""] = is ?? [];
  const own = new Set(ownFlags.split(" "));
  const missing = flags.split(" ").filter((flag) => flag !== "" && !own.has(flag));
  const lacks = missing.length === 0 ? "" : `, which lacks ${missing.join(", ")}`;
  return (
    `its guest sees the processor of its host (${name}), and this host has another (${ownName}${lacks}). ` +
    "Set OPENSANDBOX_CPU_MODEL to one model on all hosts before the snapshots are taken"
  );
}
