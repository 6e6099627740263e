import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { SandboxError } from "@opensandbox/wire/errors.ts";

// Sockets and pipes in a directory of another user, whose processes may put anything in their place. They are opened
// without following a link, and examined before they are used.

/** From <bits/fcntl-linux.h>; Node has no name for it. A descriptor of the path, which opens nothing. */
const O_PATH = 0o10000000;

/**
 * Connects to the unix socket `path`, and reports as net.connect() does. Undefined: nothing is there.
 * @throws `unavailable` for anything but a socket
 */
export function connectForeignSocket(path: string): Socket | undefined {
  let fd: number;
  try {
    fd = openSync(path, O_PATH | constants.O_NOFOLLOW);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  try {
    expect(path, "a socket", fstatSync(fd).isSocket());
    // Node calls connect(2) before this returns; proc(5): the link leads to the file itself, whatever has its name.
    return connect(`/proc/self/fd/${fd}`);
  } finally {
    closeSync(fd);
  }
}

/** Opens a pipe for reading, without waiting for a writer. @throws `unavailable` for anything but a pipe, `ELOOP` for a link */
export function openForeignPipe(path: string): number {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
  try {
    expect(path, "a pipe", fstatSync(fd).isFIFO());
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function expect(path: string, what: string, is: boolean): void {
  if (!is) throw new SandboxError("unavailable", `${path} is not ${what}: a process of its machine has replaced it`);
}
