import { SandboxError } from "@opensandbox/wire/errors.ts";

const usages = new WeakMap<Error, readonly string[]>();

/** A mistake on the command line. @param path the words of the command whose usage is shown */
export function usageError(message: string, path: readonly string[]): SandboxError {
  const error = new SandboxError("invalid_argument", message);
  usages.set(error, path);
  return error;
}

/** The words given to {@link usageError}; undefined for any other error. */
export function usageOf(error: Error): readonly string[] | undefined {
  return usages.get(error);
}
