import { asSandboxError } from "@opensandbox/wire/errors.ts";

/** An error as fields of a log line. */
export function describeError(error: unknown): object {
  const { code, message, stack } = asSandboxError(error);
  return { error: message, code, stack };
}
