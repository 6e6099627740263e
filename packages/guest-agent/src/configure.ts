import { readFileSync } from "node:fs";
import type { ConfigureRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { MachineEnvironment } from "#exec/environment.ts";
import type { RunHooks } from "#hooks/run-hooks.ts";
import type { System } from "#system/system.ts";
import { reshape } from "./reshape.ts";

/** Applies the identity that the host gives this machine. When a step fails, the request is rejected and the start fails. */
export async function configure(
  request: ConfigureRequest,
  system: System,
  environment: MachineEnvironment,
  runHooks: RunHooks,
): Promise<void> {
  // Entropy comes first: every random number drawn after this differs from those of other machines with the same
  // memory.
  if (request.entropy.length > 0) system.addEntropy(request.entropy);
  if (request.clockUnixNanos !== undefined) system.setClock(request.clockUnixNanos);
  if (request.clockStepNanos !== 0n) system.stepClock(request.clockStepNanos);
  // The address is set before any program uses the network, because packets from another address are dropped.
  if (request.macAddress.length > 0) system.setMacAddress(request.macAddress);
  // Every step after this writes to a disk.
  if (request.thaw) system.fileSystems.thaw();
  if (request.machineId !== "") system.setMachineId(request.machineId);
  if (request.newIdentity) await system.renewSecrets();
  if (request.hostname !== undefined) system.setHostname(request.hostname);
  if (request.authority !== undefined) system.trustAuthority(request.authority);
  if (request.replaceEnvs) environment.replace(request.envs);
  if (request.shape !== undefined) await reshape(request.shape, system);
  if (request.hooks !== undefined) await runHooks(request.hooks);
}

export function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}
