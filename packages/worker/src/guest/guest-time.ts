/** The largest distance from 1970 that a Date can hold, in milliseconds (ECMA-262, section "Time Values"). */
const maxDistanceMs = 8.64e15;

/** A guest's time in milliseconds since 1970; 0 for a time that a Date cannot hold. */
export function timeFrom(milliseconds: bigint): number {
  const time = Number(milliseconds);
  return Math.abs(time) <= maxDistanceMs ? time : 0;
}
