/** Waits for all promises, also after one has failed, and then resolves with their values or rejects with an error. */
export async function together<Value>(work: readonly Promise<Value>[]): Promise<Value[]> {
  await Promise.allSettled(work);
  return await Promise.all(work);
}
