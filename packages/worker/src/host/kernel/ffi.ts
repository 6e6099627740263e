import { dlopen, type FunctionDefinitions, getInt32, getRawPointer } from "node:ffi";
import { constants } from "node:os";
import { SandboxError } from "@opensandbox/wire/errors.ts";

// `node:ffi` is experimental in Node 26, one reason why the runtime is pinned. This is the worker's only file that
// imports it. All calls are synchronous.

const library = "libc.so.6";

// The address is resolved once: a call between the failing one and the reading of errno could overwrite it.
const errnoAddress = dlopen(library, {
  __errno_location: { return: "pointer", arguments: [] },
}).functions.__errno_location();

/** Functions of the C library. */
export function openLibc<const Definitions extends FunctionDefinitions>(definitions: Definitions) {
  return dlopen(library, definitions).functions;
}

/** The error number of the last call that failed. */
export function lastErrno(): number {
  return getInt32(errnoAddress);
}

/** The result of a call, which is negative when the call failed. @throws `unavailable` with the call and the errno */
export function checked<Result extends number | bigint>(call: string, result: Result): Result {
  if (result < 0) throw failure(call, lastErrno());
  return result;
}

/** The error of a failed call. Its cause carries the name of the error number as `code`, as Node's own errors do. */
export function failure(call: string, errno: number): SandboxError {
  const code = errnoName(errno);
  const message = `${call}: ${code}`;
  return new SandboxError("unavailable", message, { cause: Object.assign(new Error(message), { code, errno }) });
}

/** The name of an error number, such as `ENOENT`. */
export function errnoName(errno: number): string {
  return Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`;
}

export { getRawPointer };
