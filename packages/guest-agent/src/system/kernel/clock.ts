import { readClock, writeClock } from "./libc.ts";

export function stepClock(nanos: bigint): void {
  writeClock(readClock() + nanos);
}
