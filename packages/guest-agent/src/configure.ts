import { readFileSync } from "node:fs";
import type { ConfigureRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { MachineEnvironment } from "#exec/environment.ts";
import type { System } from "#system/system.ts";

/** Makes the machine what the host says it is. The first thing that fails ends it: nobody gets such a machine. */
export async function configure(
  request: ConfigureRequest,
  system: System,
  environment: MachineEnvironment,
): Promise<void> {
  // Before all else: whatever draws a random number from here on draws its own.
  if (request.entropy.length > 0) system.addEntropy(request.entropy);
  if (request.clockUnixNanos !== undefined) system.setClock(request.clockUnixNanos);
  if (request.clockStepNanos !== 0n) system.stepClock(request.clockStepNanos);
  // Before anything talks: what goes out under another address is dropped.
  if (request.macAddress.length > 0) system.setMacAddress(request.macAddress);
  // Whatever comes after this writes.
  if (request.thaw) system.fileSystems.thaw();
  if (request.machineId !== "") system.setMachineId(request.machineId);
  if (request.newIdentity) await system.renewSecrets();
  if (request.hostname !== undefined) system.setHostname(request.hostname);
  if (request.replaceEnvs) environment.replace(request.envs);
}

export function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}
