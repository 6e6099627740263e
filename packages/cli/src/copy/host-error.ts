import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";

/** The error for a failed system call on a file of this host. The only place of the command line that maps errno names. */
export function hostError(error: unknown, path: string): unknown {
  if (isSandboxError(error) || !(error instanceof Error) || !("code" in error)) return error;
  const options = { cause: error };
  switch (error.code) {
    case "ENOENT":
      return new SandboxError(
        "not_found",
        `${path} does not exist on this host`,
        { resource: "file", id: path },
        options,
      );
    case "EACCES":
    case "EPERM":
      return new SandboxError("permission_denied", `no permission for ${path} on this host`, options);
    case "EROFS":
      return new SandboxError("permission_denied", `${path} is on a read-only file system`, options);
    case "ENOTDIR":
      return new SandboxError(
        "invalid_argument",
        `a part of the path ${path} is not a directory on this host`,
        options,
      );
    case "EISDIR":
      return new SandboxError("invalid_argument", `${path} is a directory on this host`, options);
    case "ENOSPC":
    case "EDQUOT":
      return new SandboxError("quota_exceeded", `cannot write ${path}: the disk of this host is full`, options);
    default:
      return error;
  }
}

/** Runs a file operation of this host. @throws the error of {@link hostError} */
export async function onHost<Result>(path: string, action: () => Promise<Result>): Promise<Result> {
  try {
    return await action();
  } catch (error) {
    throw hostError(error, path);
  }
}
