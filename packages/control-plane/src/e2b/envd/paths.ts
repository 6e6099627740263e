import { posix } from "node:path";
import type { Account } from "../guest-user.ts";

/** The absolute path that a client means. A relative path, or one that begins with `~`, starts at the user's home. */
export function pathFrom({ home }: Pick<Account, "home">, path: string): string {
  if (path === "~" || path.startsWith("~/")) return posix.join(home, path.slice(1));
  return posix.resolve(home, path);
}
