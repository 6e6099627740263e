import { readClock, writeClock } from "#system/libc.ts";

export function stepClock(nanos: bigint): void {
  writeClock(readClock() + nanos);
}

/** Sets the wall clock. Returns how far it was ahead before, in nanoseconds. */
export function setClock(unixNanos: bigint): bigint {
  const before = readClock();
  writeClock(unixNanos);
  return before - unixNanos;
}
