import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";

/** What a failed system call on a file of this host means. The one place that reads errno names here. */
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
      return new SandboxError("permission_denied", `${path}: this user may not do that on this host`, options);
    case "EROFS":
      return new SandboxError("permission_denied", `${path} is on a read-only file system`, options);
    case "ENOTDIR":
      return new SandboxError("invalid_argument", `a part of ${path} is no directory on this host`, options);
    case "EISDIR":
      return new SandboxError("invalid_argument", `${path} is a directory on this host`, options);
    case "ENOSPC":
    case "EDQUOT":
      return new SandboxError("quota_exceeded", `${path}: the disk of this host is full`, options);
    default:
      return error;
  }
}

export async function onHost<Result>(path: string, action: () => Promise<Result>): Promise<Result> {
  try {
    return await action();
  } catch (error) {
    throw hostError(error, path);
  }
}
