export { examineHost, type Finding } from "./examine-host.ts";
export { buildImage, type ImageSummary, listImages, removeImage } from "./images-command.ts";
export { type OpenedWorker, openWorker, type WorkerOptions } from "./open-worker.ts";
