/** What all of them give. When one fails it rejects with that error, after the others have come to their ends too. */
export async function together<Value>(work: readonly Promise<Value>[]): Promise<Value[]> {
  await Promise.allSettled(work);
  return await Promise.all(work);
}
