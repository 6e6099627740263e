export { lockBackups, markRestore, refuseInUse } from "./backups/data-directory.ts";
export { FileCopies, type Transfer } from "./backups/file-copies.ts";
export { type HeldSnapshots, holdSnapshots, type SnapshotRecord, stageSnapshots } from "./backups/snapshot-backups.ts";
export { examineHost, type Finding } from "./examine-host.ts";
export { buildImage, type ImageSummary, listImages, removeImage } from "./images-command.ts";
export { type OpenedWorker, openWorker, type WorkerOptions } from "./open-worker.ts";
