/** Does the work every so often, never twice at once. Disposing waits for the one on its way. It must not reject. */
export function regularly(everyMs: number, work: () => Promise<void>): AsyncDisposable {
  let working: Promise<void> | undefined;
  const timer = setInterval(() => {
    working ??= work().finally(() => {
      working = undefined;
    });
  }, everyMs);
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      await working;
    },
  };
}
