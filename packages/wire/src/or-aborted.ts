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
    // The abort stands first: it wins over a promise that has settled too.
    return await Promise.race([aborted.promise, promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
