import { closeSync, constants, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Transport } from "@opensandbox/wire/guest/channel.ts";
import type { Session } from "#server.ts";
import { deviceSocket } from "#system/kernel/device-socket.ts";
import { socketTransport } from "./socket-transport.ts";

const portName = "agent";

/** Receives every read; its content is copied at once. */
const received = Buffer.alloc(64 * 1024);

/** Interval between checks for a host while none is connected. */
const absentMs = 100;

/** Serves the host at the other end of the port, and then the next one, forever. */
export async function serveVirtioSerial(start: (transport: Transport) => Session): Promise<never> {
  const device = `/dev/${deviceName()}`;
  for (;;) {
    const { port, bytes } = await hostPresent(device);
    await serveOne(port, bytes, start);
  }
}

/** Finds the device by its name in sysfs: without udev there is no /dev/virtio-ports. */
function deviceName(): string {
  const directory = "/sys/class/virtio-ports";
  const device = readdirSync(directory).find(
    (name) => readFileSync(`${directory}/${name}/name`, "latin1").trim() === portName,
  );
  if (device === undefined) throw new Error(`the machine has no virtio port named ${portName}`);
  return device;
}

/** The open port with the first bytes read from it. Only a read shows whether a host is connected. */
async function hostPresent(device: string): Promise<{ readonly port: number; readonly bytes: Buffer }> {
  const port = openSync(device, constants.O_RDWR | constants.O_NONBLOCK);
  const buffer = Buffer.alloc(64 * 1024);
  for (;;) {
    try {
      const count = readSync(port, buffer);
      if (count > 0) return { port, bytes: buffer.subarray(0, count) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") return { port, bytes: buffer.subarray(0, 0) };
      closeSync(port);
      throw error;
    }
    // End of file: no host has the other end open. Polling would report that without a pause.
    await sleep(absentMs);
  }
}

async function serveOne(port: number, bytes: Buffer, start: (transport: Transport) => Session): Promise<void> {
  const { socket } = deviceSocket(port, { onread: { buffer: received, callback: (length) => take(length) } });
  const session = start(socketTransport(socket));
  const take = (length: number): boolean => {
    // Copied: the channel keeps payloads, and the next read overwrites the buffer.
    session.receive(new Uint8Array(received.subarray(0, length)));
    return true;
  };
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.on("end", () => socket.destroy());
  socket.on("error", () => socket.destroy());
  socket.once("close", resolve);
  if (bytes.length > 0) session.receive(bytes);
  await promise;
  session.close(new SandboxError("unavailable", "the host has disconnected"));
}
