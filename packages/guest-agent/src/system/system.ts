import type { CommandGroup } from "#exec/command-group.ts";
import type { FileSystems } from "#system/file-systems.ts";
import type { User } from "#system/users.ts";

/** In bytes. */
export interface Memory {
  readonly total: number;
  /** What commands could still get without anything being killed. */
  readonly available: number;
}

/** What the agent may do to the machine it runs in. A fake machine is a process of the host: nothing is done to it. */
export interface System {
  /** @throws invalid_argument for a user that does not exist */
  findUser(name: string): User;
  /** The numbers of names, or of numbers; absent for what is empty. @throws invalid_argument for unknown names */
  findOwner(owner: string, group: string): { readonly uid?: number; readonly gid?: number };
  takeCommandGroup(): CommandGroup;
  /** Makes the bound of all commands together that of the memory there is, which may have become more or less. */
  fitMemory(): Memory;
  /** Runs what starts a command, so that the command is not spared when memory runs out, as the agent is. */
  starting<Result>(start: () => Result): Result;
  /** Where an absolute path of the sandbox is. */
  locate(path: string): string;
  /** Whom new files belong to. Undefined: whoever the agent is. */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined;
  /** What must not be removed, as located paths. */
  mountPoints(): readonly string[];

  addEntropy(bytes: Uint8Array): void;
  setClock(unixNanos: bigint): void;
  /** Lets the clock go on from so much later, in nanoseconds. */
  stepClock(nanos: bigint): void;
  /** Of the network device. A machine that has none is left alone. */
  setMacAddress(address: Uint8Array): void;
  setHostname(name: string): void;
  setMachineId(id: string): void;
  /** Makes anew what a copy must not share with what it is a copy of. */
  renewSecrets(): Promise<void>;
  readonly fileSystems: FileSystems;
}
