import { z } from "zod";
import type { Route } from "../../route.ts";
import { plainText } from "../fields.ts";

const scriptMissing = "script is required";

const CreatePatchBody = z
  .object({
    script: z
      .string(scriptMissing)
      .refine((text) => text.trim() !== "", scriptMissing)
      .pipe(plainText("script"))
      .meta({ description: "Runs with `bash -c` as the sandbox's user, for at most 300 seconds." }),
    description: z.string().optional(),
  })
  .meta({ id: "CreatePatch" });
type CreatePatchBody = z.infer<typeof CreatePatchBody>;

const Patch = z
  .object({
    id: z.string(),
    checkpointId: z.string(),
    sequence: z.int().meta({ description: "Patches are applied in this order." }),
    script: z.string(),
    description: z.string(),
    strategy: z.literal("on_wake"),
    createdAt: z.iso.datetime(),
  })
  .meta({ id: "Patch" });
type Patch = z.infer<typeof Patch>;

const CreatedPatch = z.object({ patch: Patch }).meta({ id: "CreatedPatch" });

export interface PatchRoutes {
  readonly create: Route<CreatePatchBody, unknown, z.infer<typeof CreatedPatch>>;
  readonly list: Route<unknown, unknown, Patch[]>;
  readonly remove: Route;
}

/** The patches of a checkpoint. */
export const checkpointPatches = patchRoutes("/api/sandboxes/checkpoints/:checkpointId", "Checkpoint", "a checkpoint");
/** The patches of a named snapshot. */
export const snapshotPatches = patchRoutes("/api/snapshots/:name", "Snapshot", "a named snapshot");
/** The patches of an image, named or not. */
export const imagePatches = patchRoutes("/api/images/:name", "Image", "an image");

function patchRoutes(path: string, name: string, what: string): PatchRoutes {
  return {
    create: {
      method: "POST",
      path: `${path}/patches`,
      name: `create${name}Patch`,
      summary: `Add a script that every fork of ${what} runs once, at its start or its next wake`,
      description:
        "Forks that run now run it at their next wake. A fork by another organization runs only the patches that existed " +
        "when it was made.",
      access: "key",
      body: CreatePatchBody,
      status: 201,
      reply: CreatedPatch,
    },
    list: {
      method: "GET",
      path: `${path}/patches`,
      name: `list${name}Patches`,
      summary: `List the patches of ${what} in the order in which they run`,
      access: "key",
      status: 200,
      reply: z.array(Patch),
    },
    remove: {
      method: "DELETE",
      path: `${path}/patches/:patchId`,
      name: `delete${name}Patch`,
      summary: `Remove a patch of ${what}; forks that ran it keep its effects`,
      access: "key",
      status: 204,
    },
  };
}

export function patchReplyOf(patch: {
  readonly id: string;
  readonly checkpointId: string;
  readonly sequence: number;
  readonly script: string;
  readonly description: string;
  readonly createdAt: Date;
}): Patch {
  const { id, checkpointId, sequence, script, description } = patch;
  return {
    id,
    checkpointId,
    sequence,
    script,
    description,
    strategy: "on_wake",
    createdAt: patch.createdAt.toISOString(),
  };
}
