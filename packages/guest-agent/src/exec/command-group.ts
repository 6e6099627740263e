/** Every process that one command has started, including those that left its process group. */
export interface CommandGroup {
  /** Descriptor of the cgroup that the command starts in; undefined in a fake machine. */
  readonly cgroup: number | undefined;
  /** Kills all of them at once. `leader` is the command's own process. */
  kill(leader: number): void;
  /** Returns the group after the end of the command; processes that it left behind run on. */
  release(leader: number): void;
}
