import { z } from "zod";
import type { Route } from "../route.ts";
import { plainText } from "./fields.ts";
import { memoryField } from "./sandboxes/memory.ts";

/** Files travel in it, as base64. */
export const manifestBodyLimit = 32 * 2 ** 20;

const packages = z.object({ packages: z.array(plainText("a package").pipe(z.string().min(1))).min(1) });
const path = plainText("path").pipe(z.string().min(1));
const nameRule = "env: a name must have only letters, digits and _ and not begin with a digit";
const valueRule = "env: a value must be one line, and not have both \" and '";

/** The order of the names is that of the published client, since images are found by the hash of this JSON. */
const ImageStep = z
  .discriminatedUnion("type", [
    z.object({ type: z.literal("apt_install"), args: packages }),
    z.object({ type: z.literal("pip_install"), args: packages }),
    z.object({ type: z.literal("run"), args: z.object({ commands: z.array(plainText("a command")).min(1) }) }),
    z.object({
      type: z.literal("env"),
      args: z.object({
        vars: z
          .record(z.string(), plainText("a value"))
          .refine((vars) => Object.keys(vars).every((name) => /^[A-Za-z_]\w*$/.test(name)), nameRule)
          .refine((vars) => Object.values(vars).every(fitsOneLine), valueRule),
      }),
    }),
    z.object({ type: z.literal("workdir"), args: z.object({ path }) }),
    z.object({
      type: z.literal("add_file"),
      args: z.object({ path, content: z.string(), encoding: z.enum(["base64", "utf-8"]).optional() }),
    }),
    z.object({
      type: z.literal("add_dir"),
      args: z.object({ path, files: z.array(z.object({ relativePath: path, content: z.string() })) }),
    }),
  ])
  .meta({ id: "ImageStep" });
export type ImageStep = z.infer<typeof ImageStep>;

/** What the file that holds it can say. */
function fitsOneLine(value: string): boolean {
  return !/[\r\n]/.test(value) && !(value.includes('"') && value.includes("'"));
}

/** An image as the steps that lead to it. */
export const ImageManifest = z
  .object(
    {
      base: z.string().meta({ description: 'The image it begins with. "base": the default one.' }),
      steps: z.array(ImageStep).max(1000, "image.steps: at most 1000"),
      builderMemoryMB: memoryField("builderMemoryMB").optional().meta({ description: "Memory for building it." }),
      runtimeMemoryMB: memoryField("runtimeMemoryMB")
        .optional()
        .meta({ description: "Memory of what is created from it by default." }),
      name: z.string().optional(),
    },
    { error: (issue) => (issue.input === undefined ? "image is required" : undefined) },
  )
  .meta({ id: "Image" });
export type ImageManifest = z.infer<typeof ImageManifest>;

const SnapshotReply = z
  .object({
    id: z.string(),
    orgId: z.string(),
    contentHash: z.string().meta({ description: "SHA-256 of the JSON of base and steps." }),
    checkpointId: z.string().meta({ description: "Empty until it is ready." }),
    name: z.string().meta({ description: "Empty: it was made for a create, and is found by its content." }),
    manifest: ImageManifest,
    status: z.enum(["building", "ready", "failed"]),
    error: z.string().optional(),
    createdAt: z.iso.datetime(),
    lastUsedAt: z.iso.datetime(),
  })
  .meta({ id: "Snapshot" });
type SnapshotReply = z.infer<typeof SnapshotReply>;

const nameMissing = "name is required";

const CreateSnapshotBody = z
  .object({
    name: z.string(nameMissing).min(1, nameMissing).max(255, "name must be at most 255 characters"),
    image: ImageManifest,
  })
  .meta({ id: "CreateSnapshot" });
type CreateSnapshotBody = z.infer<typeof CreateSnapshotBody>;

const CreateSnapshotQuery = z.object({
  async: z.string().optional().meta({ description: "1: answer at once with `building`." }),
});
type CreateSnapshotQuery = z.infer<typeof CreateSnapshotQuery>;

export const createSnapshot: Route<CreateSnapshotBody, CreateSnapshotQuery, SnapshotReply> = {
  method: "POST",
  path: "/api/snapshots",
  name: "createSnapshot",
  summary: "Build an image and give it a name",
  description:
    "With `Accept: text/event-stream` the build is told as events `build_log` (`{step, type, message}`) and its end as " +
    "`result` (a Snapshot) or `error` (`{error}`). The same base and steps are built once.",
  access: "key",
  body: CreateSnapshotBody,
  bodyLimit: manifestBodyLimit,
  query: CreateSnapshotQuery,
  status: 201,
  reply: SnapshotReply,
  otherReplies: {
    200: { description: "Events, where they were asked for." },
    202: { description: "It is being built.", reply: SnapshotReply },
  },
};

export const listSnapshots: Route<unknown, unknown, SnapshotReply[]> = {
  method: "GET",
  path: "/api/snapshots",
  name: "listSnapshots",
  summary: "List the images that have a name",
  access: "key",
  status: 200,
  reply: z.array(SnapshotReply),
};

export const getSnapshot: Route<unknown, unknown, SnapshotReply> = {
  method: "GET",
  path: "/api/snapshots/:name",
  name: "getSnapshot",
  summary: "Get an image by its name",
  access: "key",
  status: 200,
  reply: SnapshotReply,
};

export const deleteSnapshot: Route = {
  method: "DELETE",
  path: "/api/snapshots/:name",
  name: "deleteSnapshot",
  summary: "Delete an image by its name; what was created from it goes on",
  access: "key",
  status: 204,
};

export const listImages: Route<unknown, unknown, SnapshotReply[]> = {
  method: "GET",
  path: "/api/images",
  name: "listImages",
  summary: "List the images that were built, with and without a name",
  access: "key",
  status: 200,
  reply: z.array(SnapshotReply),
};

export const deleteImage: Route = {
  method: "DELETE",
  path: "/api/images/:name",
  name: "deleteImage",
  summary: "Delete an image by its name, id or content hash",
  access: "key",
  status: 204,
};

/** The four that let every organization fork the checkpoint of an image, or no longer. */
export const publications = (["snapshot", "image"] as const).flatMap((kind) =>
  (["publish", "unpublish"] as const).map((verb) => ({
    isPublic: verb === "publish",
    route: {
      method: "POST",
      path: `/api/${kind}s/:name/${verb}`,
      name: `${verb}${kind === "snapshot" ? "Snapshot" : "Image"}`,
      summary:
        verb === "publish"
          ? "Let every organization fork an image, by the id of its checkpoint"
          : "Let no other organization fork an image any more",
      access: "key",
      status: 200,
      reply: SnapshotReply,
    } satisfies Route<unknown, unknown, SnapshotReply>,
  })),
);

/** What the control plane knows of an image, as far as a client may see it. */
interface ImageToShow {
  readonly id: string;
  readonly organizationId: string;
  readonly contentHash: string;
  readonly checkpointId?: string | undefined;
  readonly name?: string | undefined;
  readonly manifest: ImageManifest;
  readonly status: "building" | "ready" | "failed";
  readonly error?: string | undefined;
  readonly createdAt: Date;
  readonly lastUsedAt: Date;
}

export function snapshotReplyOf(image: ImageToShow): SnapshotReply {
  return {
    id: image.id,
    orgId: image.organizationId,
    contentHash: image.contentHash,
    checkpointId: image.checkpointId ?? "",
    name: image.name ?? "",
    manifest: image.manifest,
    status: image.status,
    ...(image.error === undefined ? {} : { error: image.error }),
    createdAt: image.createdAt.toISOString(),
    lastUsedAt: image.lastUsedAt.toISOString(),
  };
}
