export { lockBackups, markRestore, refuseDuringRestore, refuseInUse } from "./backups/data-directory.ts";
export { FileCopies, type Transfer } from "./backups/file-copies.ts";
export { type HeldSnapshots, holdSnapshots, type SnapshotRecord, stageSnapshots } from "./backups/snapshot-backups.ts";
export { protectFromOutOfMemory } from "./host/oom-score.ts";
export { examineHost, type Finding } from "./examine-host.ts";
export { examineSnapshots, type SnapshotProblem } from "./examine-snapshots.ts";
export type { RegistrySettings } from "./images/oci/registries.ts";
export {
  buildImage,
  type ImageSummary,
  type ListedImage,
  listImages,
  loadImage,
  pullImage,
  removeImage,
} from "./images-command.ts";
export { type OpenedWorker, openWorker, type WorkerOptions } from "./open-worker.ts";
export * from "./cache/index.ts";
export { hasLiveWorker, removeSnapshotOf } from "./cache/without-worker.ts";
export { examineDiskUse } from "./cache/examine-disk-use.ts";
