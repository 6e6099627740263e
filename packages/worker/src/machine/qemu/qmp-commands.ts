import type { QmpClient } from "./qmp-client.ts";

/** Stops the vCPUs. */
export async function stop(qmp: QmpClient): Promise<void> {
  await qmp.execute("stop");
}

export async function cont(qmp: QmpClient): Promise<void> {
  await qmp.execute("cont");
}

/** What the ring buffer `device` holds; reading takes it out. */
export async function readRing(qmp: QmpClient, device: string, bytes: number): Promise<string> {
  return String(await qmp.execute("ringbuf-read", { device, size: bytes, format: "utf8" }));
}
