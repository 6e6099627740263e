/**
 * Calls `action` for every item, at most `max` at a time. The first failure aborts the others. It is thrown when all have
 * ended.
 */
export async function forEachAtOnce<Item>(
  items: AsyncIterable<Item> | Iterable<Item>,
  max: number,
  action: (item: Item, signal: AbortSignal) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const failed = new AbortController();
  const until = AbortSignal.any([signal, failed.signal]);
  const running = new Set<Promise<void>>();
  const failures: unknown[] = [];
  const fail = (error: unknown): void => {
    failures.push(error);
    failed.abort(error);
  };
  try {
    for await (const item of items) {
      until.throwIfAborted();
      const done = action(item, until)
        .catch(fail)
        .finally(() => running.delete(done));
      running.add(done);
      if (running.size >= max) await Promise.race(running);
    }
  } catch (error) {
    fail(error);
  }
  await Promise.all(running);
  if (failures.length > 0) throw failures[0];
}
