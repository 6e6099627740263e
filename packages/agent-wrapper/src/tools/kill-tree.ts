import { readdirSync, readFileSync } from "node:fs";

/** Ends a process and all that it has started and that still belongs to it. */
export function killTree(root: number | undefined): void {
  if (root === undefined) return;
  const tree = new Set<number>();
  // A stopped process starts no other, so that the tree is whole when nothing new is found in it.
  for (let found = [root]; found.length > 0; found = descendants(tree)) {
    for (const pid of found) {
      signal(pid, "SIGSTOP");
      tree.add(pid);
    }
  }
  for (const pid of tree) signal(pid, "SIGKILL");
}

/** Children of `parents` that are none of them. */
function descendants(parents: ReadonlySet<number>): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => pid > 0 && !parents.has(pid) && parents.has(parentOf(pid)));
}

function parentOf(pid: number): number {
  try {
    // The name, in parentheses, may hold anything.
    const [, parent] = /^.*\) \S (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, "utf8")) ?? [];
    return Number(parent);
  } catch {
    // It has ended.
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
