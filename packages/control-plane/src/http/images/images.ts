import * as wire from "@opensandbox/wire/public/images.ts";
import { imagePatches, snapshotPatches } from "@opensandbox/wire/public/sandboxes/patches.ts";
import type { FastifyInstance } from "fastify";
import { deleteImage } from "#images/delete-image.ts";
import type { BuildLog, Image } from "#images/image.ts";
import { buildNamedImage, nameImage } from "#images/name-image.ts";
import { checkpointOfImage } from "#images/provide-image.ts";
import { pruneImages } from "#images/prune-images.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import type { ApiContext } from "../api-context.ts";
import { answerWithEvents, wantsEvents } from "./build-events.ts";
import { servePatches } from "#http/sandboxes/patches.ts";
import { serve } from "../serve.ts";

/** Images that are built by steps. The public API calls named images snapshots. */
export function serveImages(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes, images: context } = api;
  const {
    stores,
    operations: { background },
  } = sandboxes;
  const { ending } = sandboxes.shutdown;
  const { images } = context;

  const shown = async (image: Image) => {
    const checkpoint = image.checkpointId === undefined ? undefined : await stores.checkpoints.find(image.checkpointId);
    return wire.snapshotReplyOf({ ...image, sizeBytes: checkpoint?.sizeBytes });
  };
  const shownAll = async (organizationId: string, found: readonly Image[]) => {
    const sizes = await images.sizesOf(organizationId);
    return found.map((image) => wire.snapshotReplyOf({ ...image, sizeBytes: sizes.get(image.id) }));
  };

  serve(app, ending, wire.createSnapshot, async (call) => {
    const { organizationId, body, query, reply, signal } = call;
    const image = await nameImage(context, { organizationId, name: body.name, manifest: body.image });
    // The build continues when its caller disconnects: the name exists and will become ready.
    const build = (onLog: (log: BuildLog) => void) => {
      const built = buildNamedImage(context, image, onLog, ending);
      background.wait(built);
      return built;
    };
    if (query.async === "1") {
      void build(() => {});
      reply.status(202);
      return wire.snapshotReplyOf(image);
    }
    const waited = async (onLog: (log: BuildLog) => void) => await shown(await orAborted(build(onLog), signal));
    return wantsEvents(call) ? answerWithEvents(api, call, waited) : waited(() => {});
  });

  serve(app, ending, wire.listSnapshots, async ({ organizationId }) => {
    const found = await images.list(organizationId);
    return await shownAll(
      organizationId,
      found.filter(({ name }) => name !== undefined),
    );
  });

  serve(app, ending, wire.getSnapshot, async ({ organizationId, parameter }) => {
    return await shown(await images.get(organizationId, parameter("name")));
  });

  serve(app, ending, wire.deleteSnapshot, async ({ organizationId, parameter }) => {
    await deleteImage(context, await images.get(organizationId, parameter("name")));
  });

  serve(app, ending, wire.listImages, async ({ organizationId }) => {
    return await shownAll(organizationId, await images.list(organizationId));
  });

  serve(app, ending, wire.deleteImage, async ({ organizationId, parameter }) => {
    await deleteImage(context, await images.getAny(organizationId, parameter("name")));
  });

  serve(app, ending, wire.pruneImages, async ({ organizationId, body: { unusedForSeconds, dryRun = false } }) => {
    // A removed image has no size any more.
    const sizes = await images.sizesOf(organizationId);
    const pruned = await pruneImages(context, { organizationId, unusedForMs: unusedForSeconds * 1000, dryRun });
    const removed = pruned.map((image) => wire.snapshotReplyOf({ ...image, sizeBytes: sizes.get(image.id) }));
    return { removed, sizeBytes: removed.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0), dryRun };
  });

  for (const { route, isPublic } of wire.publications) {
    serve(app, ending, route, async ({ organizationId, parameter }) => {
      const image = await images.getAny(organizationId, parameter("name"));
      await stores.checkpoints.setPublic((await checkpointOfImage(context, image)).id, isPublic);
      return await shown(image);
    });
  }

  for (const routes of [snapshotPatches, imagePatches]) {
    servePatches(app, api, routes, async ({ organizationId, parameter }) => {
      const image = await images.getAny(organizationId, parameter("name"));
      return (await checkpointOfImage(context, image)).id;
    });
  }
}
