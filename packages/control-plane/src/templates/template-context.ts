import type { ImageContext } from "#images/image-context.ts";
import type { BuildLogs } from "./build-logs.ts";
import type { TemplateFiles } from "./template-files.ts";
import type { TemplateStore } from "./template-store.ts";

/** The dependencies of the use cases of templates. */
export interface TemplateContext {
  readonly images: ImageContext;
  readonly templates: TemplateStore;
  readonly files: TemplateFiles;
  readonly logs: BuildLogs;
}
