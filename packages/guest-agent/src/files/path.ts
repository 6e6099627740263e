import { resolve } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** The absolute path that a caller means: relative paths start at the home directory of `sandbox`. */
export function absolutePath(path: string): string {
  if (path === "") throw new SandboxError("invalid_argument", "the path is empty");
  if (path.includes("\0")) throw new SandboxError("invalid_argument", "a path cannot contain a zero byte");
  return resolve("/home/sandbox", path);
}
