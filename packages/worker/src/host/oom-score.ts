import { readFileSync, writeFileSync } from "node:fs";

/**
 * Lowers the OOM score of this process, so that the kernel kills machines first when the host runs out of memory. A
 * score that an operator has set stays. Later child processes inherit it; machines and services have their own.
 * @returns whether this process has a score below that of other processes
 */
export function protectFromOutOfMemory(): boolean {
  const file = "/proc/self/oom_score_adj";
  const present = Number(readFileSync(file, "utf8"));
  if (present !== 0) return present < 0;
  try {
    writeFileSync(file, String(serverScore));
    return true;
  } catch (error) {
    // Only root, or CAP_SYS_RESOURCE in a container, lowers the score.
    if (["EACCES", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
}

/** The kernel ranks the server as if it used half of the host's memory less. A score of -1000 would exempt it. */
const serverScore = -500;
