/** All that one command has started, however far it has run away from its process group. */
export interface CommandGroup {
  /** Descriptor of the cgroup that the command is born in, where there are cgroups. */
  readonly cgroup: number | undefined;
  /** Ends all of it at once. `leader` is the command's own process. */
  kill(leader: number): void;
  /** The command has ended; what it left behind goes on. */
  release(leader: number): void;
}
