import { Socket, type SocketConstructorOpts } from "node:net";
import { closeDescriptor, moveDescriptor, openSocketPair } from "#system/libc.ts";

/**
 * Node makes no stream of a character device. It makes one of a socket, and only then the descriptor becomes the
 * device's: reading, writing and polling are the same system calls for both. The descriptor that it had before is closed.
 */
export function deviceSocket(
  device: number,
  options: SocketConstructorOpts = {},
): { readonly socket: Socket; readonly descriptor: number } {
  const [descriptor, other] = openSocketPair();
  closeDescriptor(other);
  const socket = new Socket({ ...options, fd: descriptor, readable: true, writable: true });
  moveDescriptor(device, descriptor);
  return { socket, descriptor };
}
