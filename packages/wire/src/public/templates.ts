import { z } from "zod";
import type { Route } from "../route.ts";
import { plainText } from "./fields.ts";
import { ImageStep, manifestBodyLimit } from "./images.ts";
import { memoryField } from "./sandboxes/memory.ts";

const TemplateStep = z
  .discriminatedUnion("type", [
    ImageStep,
    z.object({ type: z.literal("user"), args: z.object({ name: plainText("a user").pipe(z.string().min(1)) }) }),
  ])
  .meta({ id: "TemplateStep" });
export type TemplateStep = z.infer<typeof TemplateStep>;

const command = (name: string) =>
  plainText(name).pipe(z.string().max(100_000, `${name} must be at most 100000 characters`));

const CreateTemplateBody = z
  .object({
    name: z.string("name is required").min(1, "name is required"),
    tags: z.array(z.string()).max(100, "tags: at most 100").optional().meta({
      description: 'Tags that name this build when it is ready. Default: "default".',
    }),
    image: z.string().optional().meta({
      description: "The image to start from: one of the server or of a registry. Default: the default image.",
    }),
    template: z.string().optional().meta({ description: "The template to start from, instead of an image." }),
    dockerfile: z
      .string()
      .max(1_000_000)
      .optional()
      .meta({
        description:
          "A Dockerfile with the base and the steps: FROM, RUN, ENV, ARG, WORKDIR, USER, and CMD or ENTRYPOINT as the " +
          "start command. It can copy no files.",
      }),
    steps: z.array(TemplateStep).max(1000, "steps: at most 1000").optional(),
    startCommand: command("startCommand").optional().meta({
      description: "A program that runs in every sandbox of the template: it is running when the machine is captured.",
    }),
    readyCommand: command("readyCommand").optional().meta({
      description: "Repeated until it succeeds; then the machine is captured.",
    }),
    cpuCount: z.number().int().min(1, "cpuCount must be at least 1").optional(),
    memoryMB: memoryField("memoryMB").optional(),
    public: z.boolean().optional().meta({
      description:
        "Whether every organization may create sandboxes from it by its id. Default: unchanged; false for a new template.",
    }),
  })
  .meta({ id: "CreateTemplate" });
export type CreateTemplateBody = z.infer<typeof CreateTemplateBody>;

const CreateTemplateQuery = z.object({
  async: z.string().optional().meta({ description: "1: answer at once, while the template is being built." }),
});
type CreateTemplateQuery = z.infer<typeof CreateTemplateQuery>;

const TemplateBuildReply = z
  .object({
    id: z.string(),
    templateId: z.string(),
    status: z.enum(["waiting", "building", "ready", "failed"]),
    tags: z.array(z.string()).meta({ description: "The tags that name this build now, or will when it is ready." }),
    error: z.string().optional(),
    failedStep: z.string().optional().meta({
      description: "`base`, the number of a step, which starts at 1, or `finalize`: the start and ready commands.",
    }),
    createdAt: z.iso.datetime(),
    finishedAt: z.iso.datetime().optional(),
  })
  .meta({ id: "TemplateBuild" });
type TemplateBuildReply = z.infer<typeof TemplateBuildReply>;

const TemplateReply = z
  .object({
    id: z.string(),
    name: z.string(),
    public: z.boolean(),
    createdAt: z.iso.datetime(),
    builds: z.array(TemplateBuildReply).meta({ description: "Newest first." }),
  })
  .meta({ id: "Template" });
type TemplateReply = z.infer<typeof TemplateReply>;

const BuildLogQuery = z.object({
  offset: z.coerce
    .number("offset must be a number")
    .int("offset must be a whole number")
    .min(0, "offset must be at least 0")
    .optional()
    .meta({ description: "The number of lines to leave out." }),
});
type BuildLogQuery = z.infer<typeof BuildLogQuery>;

const TemplateBuildLogReply = z
  .object({
    ...TemplateBuildReply.shape,
    log: z
      .array(
        z.object({
          timestamp: z.iso.datetime(),
          level: z.enum(["info", "error"]),
          step: z.string(),
          message: z.string(),
        }),
      )
      .meta({ description: "At most 1000 lines." }),
  })
  .meta({ id: "TemplateBuildLog" });
type TemplateBuildLogReply = z.infer<typeof TemplateBuildLogReply>;

export const createTemplate: Route<CreateTemplateBody, CreateTemplateQuery, TemplateReply> = {
  method: "POST",
  path: "/api/templates",
  name: "createTemplate",
  summary: "Build a template",
  description:
    "Adds a build to the template of that name and answers when it is ready. With `Accept: text/event-stream` the answer " +
    "is a stream of events: `build_log` (`{step, type, message}`) for each line of the build, then `result` (a Template) " +
    "or `error` (`{error}`). The build continues when its caller disconnects.",
  access: "key",
  body: CreateTemplateBody,
  bodyLimit: manifestBodyLimit,
  query: CreateTemplateQuery,
  status: 201,
  reply: TemplateReply,
  otherReplies: {
    200: { description: "Events, when the client asked for them." },
    202: { description: "The template is being built.", reply: TemplateReply },
  },
};

export const listTemplates: Route<unknown, unknown, TemplateReply[]> = {
  method: "GET",
  path: "/api/templates",
  name: "listTemplates",
  summary: "List templates",
  access: "key",
  status: 200,
  reply: z.array(TemplateReply),
};

export const getTemplate: Route<unknown, unknown, TemplateReply> = {
  method: "GET",
  path: "/api/templates/:name",
  name: "getTemplate",
  summary: "Get a template by its name or id",
  access: "key",
  status: 200,
  reply: TemplateReply,
};

export const deleteTemplate: Route = {
  method: "DELETE",
  path: "/api/templates/:name",
  name: "deleteTemplate",
  summary: "Delete a template with its builds; sandboxes from it are not affected",
  access: "key",
  status: 204,
};

export const getTemplateBuild: Route<unknown, BuildLogQuery, TemplateBuildLogReply> = {
  method: "GET",
  path: "/api/templates/:name/builds/:buildId",
  name: "getTemplateBuild",
  summary: "Get a build of a template with a part of its log",
  access: "key",
  query: BuildLogQuery,
  status: 200,
  reply: TemplateBuildLogReply,
};

/** The routes that publish and unpublish a template. */
export const templatePublications = (["publish", "unpublish"] as const).map((verb) => ({
  isPublic: verb === "publish",
  route: {
    method: "POST",
    path: `/api/templates/:name/${verb}`,
    name: `${verb}Template`,
    summary:
      verb === "publish"
        ? "Allow every organization to create sandboxes from a template, by its id"
        : "Stop other organizations from using a template",
    access: "key",
    status: 200,
    reply: TemplateReply,
  } satisfies Route<unknown, unknown, TemplateReply>,
}));

/** The properties of a build that clients may see. */
export interface BuildToShow {
  readonly id: string;
  readonly templateId: string;
  readonly status: "waiting" | "building" | "ready" | "failed";
  readonly tags: readonly string[];
  readonly error?: string | undefined;
  readonly failedStep?: string | undefined;
  readonly createdAt: Date;
  readonly finishedAt?: Date | undefined;
}

export interface TemplateToShow {
  readonly id: string;
  readonly name: string;
  readonly isPublic: boolean;
  readonly createdAt: Date;
}

export function templateReplyOf(template: TemplateToShow, builds: readonly BuildToShow[]): TemplateReply {
  const { id, name, isPublic, createdAt } = template;
  return { id, name, public: isPublic, createdAt: createdAt.toISOString(), builds: builds.map(templateBuildReplyOf) };
}

export function templateBuildReplyOf(build: BuildToShow): TemplateBuildReply {
  const { id, templateId, status, tags, error, failedStep, createdAt, finishedAt } = build;
  return {
    ...{ id, templateId, status, tags: [...tags] },
    ...(error === undefined ? {} : { error }),
    ...(failedStep === undefined ? {} : { failedStep }),
    createdAt: createdAt.toISOString(),
    ...(finishedAt === undefined ? {} : { finishedAt: finishedAt.toISOString() }),
  };
}
