import { Socket, type SocketConstructorOpts } from "node:net";
import { closeDescriptor, moveDescriptor, openSocketPair } from "./libc.ts";

/**
 * A stream of a character device, which Node does not offer. Node gets a socket whose descriptor then becomes the
 * device's: both are read, written and polled by the same system calls. The device's old descriptor is closed.
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
