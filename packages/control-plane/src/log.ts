export type Log = (level: "info" | "warn" | "error", message: string, fields?: object) => void;

/** An error with what caused it, as the log has it. */
export function describeError(error: unknown): object {
  if (!(error instanceof Error)) return { error: String(error) };
  return {
    error: error.message,
    ...("code" in error ? { code: error.code } : {}),
    stack: error.stack,
    ...(error.cause === undefined ? {} : { cause: describeError(error.cause) }),
    ...(error instanceof SuppressedError ? { first: describeError(error.suppressed) } : {}),
  };
}
