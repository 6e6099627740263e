import { z } from "zod";
import type { Route } from "../route.ts";
import { plainText } from "./fields.ts";
import { memoryField } from "./sandboxes/memory.ts";

/** Manifests carry files as base64. In bytes. */
export const manifestBodyLimit = 32 * 2 ** 20;

const packages = z.object({ packages: z.array(plainText("a package").pipe(z.string().min(1))).min(1) });
const path = plainText("path").pipe(z.string().min(1));
const nameRule = "env: a name must have only letters, digits and _ and not begin with a digit";
const valueRule = "env: a value must be one line, and not have both \" and '";

/** Properties have the order of the published client, since the content hash is computed over this JSON. */
export const ImageStep = z
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

/** /etc/environment cannot hold a line break, nor both kinds of quotes. */
function fitsOneLine(value: string): boolean {
  return !/[\r\n]/.test(value) && !(value.includes('"') && value.includes("'"));
}

/** An image as a base and the steps that build on it. */
export const ImageManifest = z
  .object(
    {
      base: z.string().meta({ description: 'The image that the steps start from. "base": the default image.' }),
      steps: z.array(ImageStep).max(1000, "image.steps: at most 1000"),
      builderMemoryMB: memoryField("builderMemoryMB")
        .optional()
        .meta({ description: "Memory of the sandbox that builds it." }),
      runtimeMemoryMB: memoryField("runtimeMemoryMB")
        .optional()
        .meta({ description: "Default memory of sandboxes created from it." }),
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
    checkpointId: z.string().meta({ description: "Empty until the image is ready." }),
    name: z.string().meta({ description: "Empty: built for a create and found by its content." }),
    manifest: ImageManifest,
    status: z.enum(["building", "ready", "failed"]),
    error: z.string().optional(),
    sizeBytes: z.int().meta({ description: "Disk space that no other snapshot shares. 0 until the image is ready." }),
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
  async: z.string().optional().meta({ description: "1: answer at once, while the image is `building`." }),
});
type CreateSnapshotQuery = z.infer<typeof CreateSnapshotQuery>;

export const createSnapshot: Route<CreateSnapshotBody, CreateSnapshotQuery, SnapshotReply> = {
  method: "POST",
  path: "/api/snapshots",
  name: "createSnapshot",
  summary: "Build a named image",
  description:
    "With `Accept: text/event-stream` the answer is a stream of events: `build_log` (`{step, type, message}`) for each " +
    "line of the build, then `result` (a Snapshot) or `error` (`{error}`). A client that reads slowly misses lines of " +
    "the log; one line says how many. The same base and steps are built once.",
  access: "key",
  body: CreateSnapshotBody,
  bodyLimit: manifestBodyLimit,
  query: CreateSnapshotQuery,
  status: 201,
  reply: SnapshotReply,
  otherReplies: {
    200: { description: "Events, when the client asked for them." },
    202: { description: "The image is being built.", reply: SnapshotReply },
  },
};

export const listSnapshots: Route<unknown, unknown, SnapshotReply[]> = {
  method: "GET",
  path: "/api/snapshots",
  name: "listSnapshots",
  summary: "List named images",
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
  summary: "Delete an image by its name; sandboxes from it are not affected",
  access: "key",
  status: 204,
};

export const listImages: Route<unknown, unknown, SnapshotReply[]> = {
  method: "GET",
  path: "/api/images",
  name: "listImages",
  summary: "List all images that were built, named or not",
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

const PruneImagesBody = z
  .object({
    unusedForSeconds: z
      .int()
      .min(0)
      .max(10 * 365 * 86_400)
      .meta({ description: "Only images that nothing used for this long are removed." }),
    dryRun: z.boolean().optional().meta({ description: "Reports what would be removed, and removes nothing." }),
  })
  .meta({ id: "PruneImages" });
type PruneImagesBody = z.infer<typeof PruneImagesBody>;

const PrunedImages = z
  .object({
    removed: z.array(SnapshotReply),
    sizeBytes: z.int().meta({ description: "Disk space of the removed images that no other snapshot shares." }),
    dryRun: z.boolean(),
  })
  .meta({ id: "PrunedImages" });
type PrunedImages = z.infer<typeof PrunedImages>;

export const pruneImages: Route<PruneImagesBody, unknown, PrunedImages> = {
  method: "POST",
  path: "/api/images/prune",
  name: "pruneImages",
  summary: "Remove images without a name that nothing uses",
  description:
    "An image stays while it has a name, while it is public, and while a sandbox that was created from it, or another " +
    "checkpoint of its snapshot, exists. The same steps build a removed image again.",
  access: "key",
  body: PruneImagesBody,
  status: 200,
  reply: PrunedImages,
};

/** The routes that publish and unpublish the checkpoint of an image. */
export const publications = (["snapshot", "image"] as const).flatMap((kind) =>
  (["publish", "unpublish"] as const).map((verb) => ({
    isPublic: verb === "publish",
    route: {
      method: "POST",
      path: `/api/${kind}s/:name/${verb}`,
      name: `${verb}${kind === "snapshot" ? "Snapshot" : "Image"}`,
      summary:
        verb === "publish"
          ? "Allow every organization to fork an image, by the id of its checkpoint"
          : "Stop other organizations from forking an image",
      access: "key",
      status: 200,
      reply: SnapshotReply,
    } satisfies Route<unknown, unknown, SnapshotReply>,
  })),
);

/** The properties of an image that clients may see. */
interface ImageToShow {
  readonly id: string;
  readonly organizationId: string;
  readonly contentHash: string;
  readonly checkpointId?: string | undefined;
  readonly name?: string | undefined;
  readonly manifest: ImageManifest;
  readonly status: "building" | "ready" | "failed";
  readonly error?: string | undefined;
  readonly sizeBytes?: number | undefined;
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
    sizeBytes: image.sizeBytes ?? 0,
    createdAt: image.createdAt.toISOString(),
    lastUsedAt: image.lastUsedAt.toISOString(),
  };
}
