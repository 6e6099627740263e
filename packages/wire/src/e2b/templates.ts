import { z } from "zod";
import type { Route } from "../route.ts";
import { envdVersion } from "./sandboxes.ts";

export interface AliasReply {
  readonly templateID: string;
  readonly public: boolean;
}

export interface TemplateReply {
  readonly templateID: string;
  readonly buildID: string;
  readonly buildStatus: "ready";
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly diskSizeMB: number;
  readonly public: boolean;
  readonly aliases: readonly string[];
  readonly names: readonly string[];
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly createdBy: null;
  readonly lastSpawnedAt: null;
  readonly spawnCount: number;
  readonly buildCount: number;
  readonly envdVersion: string;
}

export interface RequestedBuildReply {
  readonly templateID: string;
  readonly buildID: string;
  readonly names: readonly string[];
  readonly tags: readonly string[];
  readonly aliases: readonly string[];
  readonly public: boolean;
}

const shapeRule = "cpuCount and memoryMB must be whole numbers of at least 1 and 128";

/** A name with an optional tag, as `my-template:v1`. */
const reference = z.string("a template's name is required").min(1, "a template's name is required").max(300);

const RequestBuildBody = z.object({
  name: reference,
  tags: z.array(z.string()).max(100, "tags: at most 100").optional(),
  cpuCount: z.number(shapeRule).int(shapeRule).min(1, shapeRule).optional(),
  memoryMB: z.number(shapeRule).int(shapeRule).min(128, shapeRule).optional(),
});
export type RequestBuildBody = z.infer<typeof RequestBuildBody>;

export interface FileLinkReply {
  readonly present: boolean;
  readonly url: string;
}

const BuildStep = z.object({
  type: z.string(),
  args: z.array(z.string()).max(10_000).optional(),
  filesHash: z.string().optional(),
});
export type BuildStep = z.infer<typeof BuildStep>;

const StartBuildBody = z.object({
  fromImage: z.string().max(1000).optional(),
  fromTemplate: z.string().max(1000).optional(),
  fromImageRegistry: z.unknown().optional(),
  startCmd: z.string().max(100_000).optional(),
  readyCmd: z.string().max(100_000).optional(),
  steps: z.array(BuildStep).max(1000, "steps: at most 1000").optional(),
});
export type StartBuildBody = z.infer<typeof StartBuildBody>;

const StatusQuery = z.object({
  logsOffset: z.coerce.number("logsOffset must be a number").int().min(0).optional(),
});
export type StatusQuery = z.infer<typeof StatusQuery>;

export interface BuildLogEntry {
  readonly timestamp: string;
  readonly level: "info" | "error";
  readonly message: string;
  readonly step: string;
}

export interface BuildStatusReply {
  readonly templateID: string;
  readonly buildID: string;
  readonly status: "waiting" | "building" | "ready" | "error";
  readonly logEntries: readonly BuildLogEntry[];
  readonly logs: readonly string[];
  readonly reason?: { readonly message: string; readonly step: string };
}

const tags = z.array(z.string()).min(1, "tags: at least 1").max(100, "tags: at most 100");

export interface TagReply {
  readonly tag: string;
  readonly buildID: string;
  readonly createdAt: string;
}

export interface TeamReply {
  readonly teamID: string;
  readonly name: string;
  /** Empty: a server stores no plain key. */
  readonly apiKey: string;
  readonly isDefault: boolean;
}

const key = { access: "key" } as const;

export const findAlias: Route<unknown, unknown, AliasReply> = {
  ...key,
  ...{ method: "GET", path: "/templates/aliases/:alias", name: "e2bFindAlias", summary: "Look up a template" },
  status: 200,
  reply: z.custom<AliasReply>(),
};

export const listTemplates: Route<unknown, unknown, TemplateReply[]> = {
  ...key,
  ...{ method: "GET", path: "/templates", name: "e2bListTemplates", summary: "List templates" },
  status: 200,
  reply: z.custom<TemplateReply[]>(),
};

export const listTemplatesSecond: typeof listTemplates = {
  ...listTemplates,
  path: "/v2/templates",
  name: "e2bListTemplatesSecond",
};

export const getTemplate: Route<unknown, unknown, TemplateReply> = {
  ...key,
  ...{ method: "GET", path: "/templates/:id", name: "e2bGetTemplate", summary: "Get a template" },
  status: 200,
  reply: z.custom<TemplateReply>(),
};

export const requestBuild: Route<RequestBuildBody, unknown, RequestedBuildReply> = {
  ...key,
  ...{ method: "POST", path: "/v3/templates", name: "e2bRequestBuild", summary: "Add a build to a template" },
  body: RequestBuildBody,
  status: 202,
  reply: z.custom<RequestedBuildReply>(),
};

export const getFileLink: Route<unknown, unknown, FileLinkReply> = {
  ...key,
  ...{
    method: "GET",
    path: "/templates/:id/files/:hash",
    name: "e2bGetFileLink",
    summary: "Get the URL for the files of a COPY step",
  },
  status: 201,
  reply: z.custom<FileLinkReply>(),
};

export const startBuild: Route<StartBuildBody> = {
  ...key,
  ...{
    method: "POST",
    path: "/v2/templates/:id/builds/:build",
    name: "e2bStartBuild",
    summary: "Start a build",
  },
  body: StartBuildBody,
  bodyLimit: 4 * 2 ** 20,
  status: 202,
};

export const getBuildStatus: Route<unknown, StatusQuery, BuildStatusReply> = {
  ...key,
  ...{
    method: "GET",
    path: "/templates/:id/builds/:build/status",
    name: "e2bGetBuildStatus",
    summary: "Get the status and a part of the log of a build",
  },
  query: StatusQuery,
  status: 200,
  reply: z.custom<BuildStatusReply>(),
};

export const assignTags: Route<
  { target: string; tags: string[] },
  unknown,
  { readonly buildID: string; readonly tags: readonly string[] }
> = {
  ...key,
  ...{ method: "POST", path: "/templates/tags", name: "e2bAssignTags", summary: "Make tags name a build" },
  body: z.object({ target: reference, tags }),
  status: 201,
  reply: z.custom<{ readonly buildID: string; readonly tags: readonly string[] }>(),
};

export const removeTags: Route<{ name: string; tags: string[] }> = {
  ...key,
  ...{ method: "DELETE", path: "/templates/tags", name: "e2bRemoveTags", summary: "Remove tags" },
  body: z.object({ name: reference, tags }),
  status: 204,
};

export const listTags: Route<unknown, unknown, TagReply[]> = {
  ...key,
  ...{ method: "GET", path: "/templates/:id/tags", name: "e2bListTags", summary: "List the tags of a template" },
  status: 200,
  reply: z.custom<TagReply[]>(),
};

export const publishTemplate: Route<{ public?: boolean | undefined }, unknown, { readonly names: readonly string[] }> =
  {
    ...key,
    ...{
      method: "PATCH",
      path: "/v2/templates/:id",
      name: "e2bPublishTemplate",
      summary: "Publish a template, or end that",
    },
    body: z.object({ public: z.boolean().optional() }),
    status: 200,
    reply: z.custom<{ readonly names: readonly string[] }>(),
  };

export const publishTemplateFirst: typeof publishTemplate = {
  ...publishTemplate,
  path: "/templates/:id",
  name: "e2bPublishTemplateFirst",
};

/** Where a client PUTs the files of a COPY step. The signature is that of {@link getFileLink}. */
export const uploadPath = "/template-files/:organization/:id/:hash";

export const listTeams: Route<unknown, unknown, TeamReply[]> = {
  ...key,
  ...{ method: "GET", path: "/teams", name: "e2bListTeams", summary: "List the organization of the key" },
  status: 200,
  reply: z.custom<TeamReply[]>(),
};

/** Clients expect every template to have a build. One build of an unknown time stands for an image. */
const unknownTime = new Date(0);
const unknownBuild = "00000000-0000-0000-0000-000000000000";

export interface TemplateToShow {
  readonly id: string;
  readonly name: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
  readonly isPublic: boolean;
  readonly buildId?: string | undefined;
  readonly buildCount?: number;
  readonly createdAt?: Date;
}

export function templateReplyOf(template: TemplateToShow): TemplateReply {
  const time = (template.createdAt ?? unknownTime).toISOString();
  return {
    templateID: template.id,
    buildID: template.buildId ?? unknownBuild,
    buildStatus: "ready",
    cpuCount: template.vcpus,
    memoryMB: template.memoryMib,
    diskSizeMB: template.workspaceMib,
    public: template.isPublic,
    aliases: [template.name],
    names: [template.name],
    createdAt: time,
    updatedAt: time,
    createdBy: null,
    lastSpawnedAt: null,
    spawnCount: 0,
    buildCount: template.buildCount ?? 1,
    envdVersion,
  };
}
