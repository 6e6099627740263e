const unknown = new WeakSet<object>();

/** Marks the error of an operation that the worker may have finished: no answer came. */
export function markOutcomeUnknown<E extends object>(error: E): E {
  unknown.add(error);
  return error;
}

export function isOutcomeUnknown(error: unknown): boolean {
  return typeof error === "object" && error !== null && unknown.has(error);
}
