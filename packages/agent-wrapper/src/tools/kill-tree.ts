import { readdirSync, readFileSync } from "node:fs";

/** Kills a process and its descendants. Processes whose parent has exited are not among them. */
export function killTree(root: number | undefined): void {
  if (root === undefined) return;
  const tree = new Set<number>();
  // A stopped process starts no child: the tree is complete once a pass finds nothing new.
  for (let found = [root]; found.length > 0; found = descendants(tree)) {
    for (const pid of found) {
      signal(pid, "SIGSTOP");
      tree.add(pid);
    }
  }
  for (const pid of tree) signal(pid, "SIGKILL");
}

/** Children of `parents` that are not among `parents`. */
function descendants(parents: ReadonlySet<number>): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => pid > 0 && !parents.has(pid) && parents.has(parentOf(pid)));
}

function parentOf(pid: number): number {
  try {
    // proc_pid_stat(5): the name, in parentheses, may contain any character.
    const [, parent] = /^.*\) \S (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, "utf8")) ?? [];
    return Number(parent);
  } catch {
    // The process has exited.
    return 0;
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
