/**
 * Runs `run` for each value, at most `limit` at once. After the first failure no further one begins; it rejects when those
 * under way have settled.
 */
export async function inParallel<T>(
  values: Iterable<T>,
  limit: number,
  run: (value: T) => Promise<void>,
): Promise<void> {
  const left = values[Symbol.iterator]();
  let hasFailed = false;
  const work = async (): Promise<void> => {
    for (let next = left.next(); next.done !== true && !hasFailed; next = left.next()) {
      try {
        await run(next.value);
      } catch (error) {
        hasFailed = true;
        throw error;
      }
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: limit }, work));
  const failure = ends.find((end) => end.status === "rejected");
  if (failure !== undefined) throw failure.reason;
}
