import { setTimeout as sleep } from "node:timers/promises";

/** Waits until something is so; the test fails when it does not become so in 20 s. */
export async function eventually(what: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
  const giveUp = performance.now() + 20_000;
  while (!(await isSo())) {
    if (performance.now() > giveUp) throw new Error(`it did not happen: ${what}`);
    await sleep(5);
  }
}
