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

export const listTeams: Route<unknown, unknown, TeamReply[]> = {
  ...key,
  ...{ method: "GET", path: "/teams", name: "e2bListTeams", summary: "List the organization of the key" },
  status: 200,
  reply: z.custom<TeamReply[]>(),
};

/** Clients expect every template to have a build. One build of an unknown time stands for an image. */
const unknownTime = new Date(0).toISOString();

export function templateReplyOf(
  name: string,
  shape: {
    readonly vcpus: number;
    readonly memoryMib: number;
    readonly workspaceMib: number;
    readonly isPublic: boolean;
  },
): TemplateReply {
  return {
    templateID: name,
    buildID: "00000000-0000-0000-0000-000000000000",
    buildStatus: "ready",
    cpuCount: shape.vcpus,
    memoryMB: shape.memoryMib,
    diskSizeMB: shape.workspaceMib,
    public: shape.isPublic,
    aliases: [name],
    names: [name],
    createdAt: unknownTime,
    updatedAt: unknownTime,
    createdBy: null,
    lastSpawnedAt: null,
    spawnCount: 0,
    buildCount: 1,
    envdVersion,
  };
}
