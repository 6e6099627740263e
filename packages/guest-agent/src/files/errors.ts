import { SandboxError } from "@opensandbox/wire/errors.ts";

/** Translates a failed system call on a file for the caller. Only this file reads errno names of files. */
export function fileError(error: unknown, path: string): unknown {
  if (!(error instanceof Error) || !("code" in error) || !("syscall" in error)) return error;
  const options = { cause: error };
  const refuse = (why: string): SandboxError => new SandboxError("invalid_argument", `${path}: ${why}`, options);
  switch (error.code) {
    case "ENOENT":
      return new SandboxError("not_found", `${path} does not exist`, { resource: "file", id: path }, options);
    case "EEXIST":
      return new SandboxError("already_exists", `${path} exists already`, { resource: "file", id: path }, options);
    case "EACCES":
    case "EPERM":
      return new SandboxError("permission_denied", `${path}: permission denied`, options);
    case "EROFS":
      return new SandboxError("permission_denied", `${path} is on a read-only file system`, options);
    case "ENOSPC":
    case "EDQUOT":
      return new SandboxError("quota_exceeded", `${path}: the disk of the sandbox is full`, options);
    case "EFBIG":
      return new SandboxError("quota_exceeded", `${path} would be larger than a file can be`, options);
    case "EISDIR":
    case "ERR_FS_EISDIR":
      return refuse("is a directory");
    case "ENOTDIR":
      return refuse("a part of the path, or the path itself, is not a directory");
    case "ENOTEMPTY":
      return refuse("is a directory that is not empty");
    case "EINVAL":
      return refuse("cannot be moved into itself, or the operation is not possible here");
    case "ENAMETOOLONG":
      return refuse("the path is too long (255 bytes a name, 4095 bytes in all)");
    case "ELOOP":
      return refuse("its symbolic links form a loop");
    case "EBUSY":
      return refuse("is in use by the system, for example as a mount point");
    case "ENXIO":
    case "ENODEV":
      return refuse("is not a regular file");
    default:
      return error;
  }
}

/** Runs `action`, and reports a failed system call in terms of `path` as the caller wrote it. */
export async function aboutFile<Result>(path: string, action: () => Promise<Result>): Promise<Result> {
  try {
    return await action();
  } catch (error) {
    throw fileError(error, path);
  }
}
