import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/sandboxes/tags.ts";
import type { FastifyInstance } from "fastify";
import { listTagKeys, setTags } from "#sandboxes/tags.ts";
import type { ApiContext } from "../api-context.ts";
import { serve } from "../serve.ts";

export function serveTags(app: FastifyInstance, { sandboxes }: ApiContext): void {
  const { stores } = sandboxes;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.getTags, async ({ organizationId, parameter }) => {
    return wire.tagsReplyOf(await stores.sandboxes.get(organizationId, parseSandboxId(parameter("id"))));
  });

  serve(app, ending, wire.setTags, async ({ organizationId, parameter, body }) => {
    const id = parseSandboxId(parameter("id"));
    return wire.tagsReplyOf(await setTags(sandboxes, { organizationId, id, tags: body }));
  });

  serve(app, ending, wire.listTagKeys, async ({ organizationId }) => {
    return { keys: await listTagKeys(sandboxes, organizationId) };
  });
}
