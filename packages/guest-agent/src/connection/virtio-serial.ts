import { closeSync, constants, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { signalChanges } from "#system/kernel/libc.ts";
import { serveDescriptor, type StartSession } from "./serve-descriptor.ts";

const portName = "agent";

/** The path of the agent's virtio-serial port; undefined in a machine that has none. */
export function findSerialPort(): string | undefined {
  // By its name in sysfs: without udev there is no /dev/virtio-ports.
  const directory = "/sys/class/virtio-ports";
  let devices: readonly string[];
  try {
    devices = readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const device = devices.find((name) => readFileSync(`${directory}/${name}/name`, "latin1").trim() === portName);
  return device === undefined ? undefined : `/dev/${device}`;
}

/** Serves the host at the other end of the port, and then the next one, forever. */
export async function serveVirtioSerial(device: string, start: StartSession): Promise<never> {
  for (;;) {
    const { port, bytes } = await hostPresent(device);
    await serveDescriptor(port, start, { first: bytes }).ended;
  }
}

/**
 * Opens the port and reads until a host is connected, since only a read shows that. Returns the port and the first
 * bytes.
 */
async function hostPresent(device: string): Promise<{ readonly port: number; readonly bytes: Buffer }> {
  const port = openSync(device, constants.O_RDWR | constants.O_NONBLOCK);
  const buffer = Buffer.alloc(64 * 1024);
  // Neither a signal's listener nor the device keeps this process alive.
  const alive = setInterval(() => undefined, maxTimerMs);
  try {
    signalChanges(port, true);
    for (;;) {
      // The promise is taken before the read, so that a host that connects after the read resolves it.
      const { promise } = nextChange;
      const bytes = readNow(port, buffer);
      if (bytes !== undefined) {
        signalChanges(port, false);
        return { port, bytes };
      }
      await promise;
    }
  } catch (error) {
    closeSync(port);
    throw error;
  } finally {
    clearInterval(alive);
  }
}

const maxTimerMs = 2 ** 31 - 1;

/** Resolves at the next SIGIO. */
let nextChange = Promise.withResolvers<void>();

// The listener is never removed: without one the signal ends the process, and a signal may be on its way.
process.on("SIGIO", () => {
  nextChange.resolve();
  nextChange = Promise.withResolvers();
});

/** Undefined at the end of file: no host has the other end open. Polling would report that without a pause. */
function readNow(port: number, buffer: Buffer): Buffer | undefined {
  try {
    const count = readSync(port, buffer);
    return count > 0 ? buffer.subarray(0, count) : undefined;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EAGAIN") return buffer.subarray(0, 0);
    throw error;
  }
}
