import { readClock, writeClock } from "#system/libc.ts";

export function stepClock(nanos: bigint): void {
  writeClock(readClock() + nanos);
}
