/**
 * The value of the promise, or a rejection when the signal aborts first. The promise itself goes on.
 * `errorOf` makes the rejection; default: the signal's reason.
 */
export async function orAborted<T>(
  promise: Promise<T>,
  signal: AbortSignal,
  errorOf: (signal: AbortSignal) => unknown = ({ reason }) => reason as unknown,
): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(errorOf(signal));
  signal.addEventListener("abort", abort);
  try {
    if (signal.aborted) abort();
    // The abort comes first in the race, so it wins even over a promise that has settled.
    return await Promise.race([aborted.promise, promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
