import { once, type EventEmitter } from "node:events";

export interface Patience {
  /** After this long the wait fails. 20 s without it. */
  readonly withinMs?: number;
  /** Between the end of a probe and the next one. 5 ms without it. */
  readonly everyMs?: number;
}

const defaultMs = 20_000;

/**
 * Probes until the result is truthy, and returns it.
 * @throws the probe's own error at once, and an error with `what` when the deadline passes
 */
export async function eventually<T>(
  what: string,
  probe: () => T | Promise<T>,
  { withinMs = defaultMs, everyMs = 5 }: Patience = {},
): Promise<Exclude<T, false | undefined | null>> {
  let isOver = false;
  const probing = async (): Promise<T> => {
    for (;;) {
      const found = await probe();
      if (found || isOver) return found;
      await new Promise((resolve) => setTimeout(resolve, everyMs));
    }
  };
  try {
    // The deadline holds for a probe that hangs, too.
    return (await within(what, probing(), withinMs)) as Exclude<T, false | undefined | null>;
  } finally {
    isOver = true;
  }
}

/**
 * Waits for a promise.
 * @throws what the promise rejects with, and an error with `what` when the deadline passes
 */
export async function within<T>(what: string, promise: Promise<T>, withinMs = defaultMs): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(tooLate(what, withinMs)), withinMs);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Waits for an event and returns its arguments.
 * @throws the error of an `error` event, and an error that names the event when the deadline passes
 */
export async function eventOf(emitter: EventEmitter, name: string, withinMs = defaultMs): Promise<unknown[]> {
  return await within(`the event "${name}"`, once(emitter, name), withinMs);
}

function tooLate(what: string, withinMs: number): Error {
  return new Error(`Waited ${Math.round(withinMs / 1000)} s in vain: ${what}`);
}
