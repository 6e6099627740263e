import { posix } from "node:path";
import type { Account } from "../guest-user.ts";

/** The absolute path that a client means: relative ones, and those that begin with `~`, start at the user's home. */
export function pathFrom({ home }: Pick<Account, "home">, path: string): string {
  if (path === "~" || path.startsWith("~/")) return posix.join(home, path.slice(1));
  return posix.resolve(home, path);
}
