import type { CommandGroup } from "#exec/command-group.ts";
import type { FileSystems } from "./kernel/file-systems.ts";
import type { User } from "#system/users.ts";

/** In bytes. */
export interface Memory {
  readonly total: number;
  /** Memory that commands can still get before the OOM killer acts. */
  readonly available: number;
  /** Memory of commands that the kernel cannot reclaim. */
  readonly needed: number;
}

/** Limits of all commands together. 0 stands for no limit, or for the agent's own. */
export interface CommandLimits {
  readonly memoryBytes: number;
  /** In percent of one processor. */
  readonly cpuPercent: number;
  readonly maxPids: number;
}

/** The machine that the agent administers. In a fake machine, which is a process of the host, most of it does nothing. */
export interface System {
  /** @throws invalid_argument for a user that does not exist */
  findUser(name: string): User;
  /** Resolves names and numbers; an empty name is left out. @throws invalid_argument for unknown names */
  findOwner(owner: string, group: string): { readonly uid?: number; readonly gid?: number };
  takeCommandGroup(): CommandGroup;
  /** Adapts the memory limit of all commands to the memory that the machine has now. */
  fitMemory(): Memory;
  memory(): Memory;
  /** Limits all commands, including those that already run. */
  limitCommands(limits: CommandLimits): void;
  /** Sets how many processors are online. */
  setProcessors(count: number): void;
  /** Waits until the workspace's disk has `bytes`, then enlarges the file system to fill it. */
  growWorkspace(bytes: bigint): Promise<void>;
  /** Runs `start` such that the process it starts is not exempt from the OOM killer, as the agent is. */
  starting<Result>(start: () => Result): Result;
  /** The real path of an absolute path in the sandbox. */
  locate(path: string): string;
  /** The command that runs a program of the agent disk. Absent: the program itself. */
  programOf?(path: string): readonly string[] | undefined;
  /** Owner of new files. Undefined: the user of the agent. */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined;
  /** Paths, as {@link locate} returns them, that must not be removed. */
  mountPoints(): readonly string[];
  /** Whether a call on a real path, or below it, may wait for a process or for another host. */
  mayStall(path: string): boolean;

  addEntropy(bytes: Uint8Array): void;
  setClock(unixNanos: bigint): void;
  /** Moves the clock, in nanoseconds; negative values move it back. */
  stepClock(nanos: bigint): void;
  /** Sets the address of the network device, if there is one. */
  setMacAddress(address: Uint8Array): void;
  setHostname(name: string): void;
  setMachineId(id: string): void;
  /** Trusts this certificate authority (PEM) in place of the one that was set before. Empty: none. */
  trustAuthority(certificate: string): void;
  /** Renews the secrets that a copy must not share with its origin. */
  renewSecrets(): Promise<void>;
  readonly fileSystems: FileSystems;
}
