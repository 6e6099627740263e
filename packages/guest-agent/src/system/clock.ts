import { readClock, writeClock } from "#system/libc.ts";

export function stepClock(nanos: bigint): void {
  writeClock(readClock() + nanos);
}

/** Sets the wall clock. */
export function setClock(unixNanos: bigint): void {
  writeClock(unixNanos);
}
