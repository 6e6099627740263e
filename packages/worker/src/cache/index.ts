// The part of collection that knows a worker's files.
export type { CacheDirectories } from "./cache-directories.ts";
export { cacheItems, filesOfSnapshot, type Keeping } from "./cache-items.ts";
export {
  type LostMachine,
  lostMachines,
  removeLostMachine,
  setUnclaimedAside,
  unclaimedMachines,
} from "./lost-machines.ts";
export { removeItem, removeLeftovers } from "./remove-item.ts";
export { type CacheItem, type Removal, type Retention, selectRemovals } from "./select-removals.ts";
