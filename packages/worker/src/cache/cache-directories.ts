/** Where a worker keeps its data and its caches. */
export interface CacheDirectories {
  readonly dataDirectory: string;
  readonly imagesDirectory: string;
  readonly templatesDirectory: string;
}
