import type { Socket } from "node:net";
import type { Transport } from "@opensandbox/wire/guest/channel.ts";
import { untilDrained } from "./until-drained.ts";

/** Bytes that may be queued before a writer has to wait. */
const maxQueued = 128 * 1024;
/** Frames up to this many bytes are joined: in a guest a system call costs more than the copy. */
const maxCopiedBytes = 64 * 1024;

/** Writes to a socket as fast as it takes the bytes. Frames of one turn of the event loop go out together. */
export function socketTransport(socket: Socket): Transport {
  let frames: Uint8Array[] = [];
  let bytes = 0;
  let drained: Promise<void> | undefined;

  function flush(): void {
    const [all, count] = [frames, bytes];
    frames = [];
    bytes = 0;
    if (socket.destroyed) return;
    if (all.length === 1) socket.write(all[0]!);
    else if (count <= maxCopiedBytes) socket.write(Buffer.concat(all, count));
    else {
      // One system call for all frames.
      socket.cork();
      for (const frame of all) socket.write(frame);
      socket.uncork();
    }
  }

  return {
    write(frame) {
      if (socket.destroyed) return Promise.reject(new Error("the connection is closed"));
      if (frames.length === 0) process.nextTick(flush);
      frames.push(frame);
      bytes += frame.length;
      if (bytes + socket.writableLength < maxQueued) return undefined;
      if (bytes >= maxCopiedBytes) flush();
      if (!socket.writableNeedDrain) return undefined;
      drained ??= untilRoom(socket).finally(() => {
        drained = undefined;
      });
      return drained;
    },
  };
}

async function untilRoom(socket: Socket): Promise<void> {
  await untilDrained(socket);
  if (socket.destroyed) throw new Error("the connection was closed");
}
