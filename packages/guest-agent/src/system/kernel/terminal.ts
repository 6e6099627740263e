import { chownSync, constants, openSync, statSync } from "node:fs";
import { closeDescriptor, setUtf8Input, setWindowSize, terminalNumber, unlockTerminal } from "./libc.ts";
import type { Credentials } from "#system/users.ts";

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** Opens a terminal: the agent's end, which the caller closes, and the path that a program opens. */
export function openTerminal(
  size: TerminalSize,
  owner: Credentials | undefined,
): { readonly descriptor: number; readonly path: string } {
  using undo = new DisposableStack();
  const descriptor = openSync("/dev/ptmx", constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  undo.defer(() => closeDescriptor(descriptor));
  unlockTerminal(descriptor);
  const path = `/dev/pts/${terminalNumber(descriptor)}`;
  // The program opens it as its own user; the kernel has chosen the group.
  if (owner !== undefined) chownSync(path, owner.uid, statSync(path).gid);
  setUtf8Input(descriptor);
  setWindowSize(descriptor, size);
  undo.move();
  return { descriptor, path };
}
