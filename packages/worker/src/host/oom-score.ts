import { readFileSync, writeFileSync } from "node:fs";

/**
 * Makes the kernel kill machines before this process when the host runs out of memory. An operator's score stays. The
 * programs that this process starts from now on inherit it, except machines and services, which have their own.
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

/** As if the server used half of the host's memory less than it does. The scale ends at -1000: never. */
const serverScore = -500;
