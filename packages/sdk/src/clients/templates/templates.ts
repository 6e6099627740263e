import { SandboxError } from "@opensandbox/wire/errors.ts";
import {
  createTemplate,
  type CreateTemplateBody,
  deleteTemplate,
  getTemplate,
  listTemplates,
  templatePublications,
} from "@opensandbox/wire/public/templates.ts";
import { readEvents } from "#transport/events.ts";
import type { HttpClient } from "#transport/http.ts";
import { errorFromReply, replyOf } from "#transport/http.ts";
import type { ImageStep } from "../images.ts";

/** How a template is built. One of `image`, `template` and `dockerfile` is its base. */
export interface TemplateRecipe {
  /** An image of the server or of a registry. Default: the default image. */
  readonly image?: string;
  readonly template?: string;
  /** A Dockerfile without COPY and ADD. */
  readonly dockerfile?: string;
  readonly steps?: readonly (ImageStep | { readonly type: "user"; readonly args: { readonly name: string } })[];
  /** A program that already runs in every sandbox of the template. */
  readonly startCommand?: string;
  /** Repeated until it succeeds; then the machine is captured. */
  readonly readyCommand?: string;
  /** Tags that name this build when it is ready. Default: `default`. */
  readonly tags?: readonly string[];
  readonly vcpus?: number;
  readonly memoryMib?: number;
  /** Whether every organization may use the template by its id. Default: unchanged; false for a new template. */
  readonly public?: boolean;
}

/** A template. Create sandboxes from it with `image: name` or `image: "name:tag"`. */
export interface SandboxTemplate {
  readonly id: string;
  readonly name: string;
  readonly public: boolean;
  readonly createdAt: string;
  /** Newest first. */
  readonly builds: readonly TemplateBuild[];
}

export interface TemplateBuild {
  readonly id: string;
  readonly status: "waiting" | "building" | "ready" | "failed";
  readonly tags: readonly string[];
  readonly error?: string | undefined;
  /** `base`, the number of a step, or `finalize`. */
  readonly failedStep?: string | undefined;
  readonly createdAt: string;
  readonly finishedAt?: string | undefined;
}

export interface TemplatesClient {
  /** Builds a template. Resolves when it is ready. @throws `invalid_argument` with the output of a step that fails */
  build(
    name: string,
    recipe: TemplateRecipe,
    options?: { readonly onLog?: (line: string) => void },
    signal?: AbortSignal,
  ): Promise<SandboxTemplate>;
  get(name: string, signal?: AbortSignal): Promise<SandboxTemplate>;
  list(signal?: AbortSignal): Promise<readonly SandboxTemplate[]>;
  /** Deletes a template. Sandboxes created from it are unaffected. */
  delete(name: string, signal?: AbortSignal): Promise<void>;
  /** Allows every organization to create sandboxes from a template by its id, or ends that. */
  setPublic(name: string, isPublic: boolean, signal?: AbortSignal): Promise<SandboxTemplate>;
}

export function templatesClient(http: HttpClient): TemplatesClient {
  return {
    async build(name, { vcpus, memoryMib, ...recipe }, { onLog } = {}, signal) {
      const shape = {
        ...(vcpus === undefined ? {} : { cpuCount: vcpus }),
        ...(memoryMib === undefined ? {} : { memoryMB: memoryMib }),
      };
      const body = { name, ...recipe, ...shape } as CreateTemplateBody;
      const response = await http.send(createTemplate, { body, headers: { Accept: "text/event-stream" } }, signal);
      for await (const { event, data } of readEvents(response, signal)) {
        if (event === "result") return replyOf(createTemplate, data);
        if (event === "error") throw errorFromReply(500, data);
        if (event === "build_log") onLog?.((JSON.parse(data) as { readonly message: string }).message);
      }
      throw new SandboxError(
        "unavailable",
        `the connection to the server ended before template ${name} was built, which goes on there: see its status`,
      );
    },
    get: async (name, signal) => await http.call(getTemplate, { parameters: { name } }, signal),
    list: async (signal) => await http.call(listTemplates, {}, signal),
    async delete(name, signal) {
      await http.call(deleteTemplate, { parameters: { name } }, signal);
    },
    async setPublic(name, isPublic, signal) {
      const publication = templatePublications.find((found) => found.isPublic === isPublic);
      if (publication === undefined) throw new Error("there is a route for each value");
      return await http.call(publication.route, { parameters: { name } }, signal);
    },
  };
}
