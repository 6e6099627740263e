import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/guests/previews.ts";
import type { FastifyInstance } from "fastify";
import { createPreview } from "#previews/create-preview.ts";
import type { Preview } from "#previews/preview.ts";
import { hostnameOf } from "#previews/preview-target.ts";
import { newPreviewToken } from "#previews/preview-token.ts";
import type { ApiContext } from "../api-context.ts";
import { serve } from "../serve.ts";

export function servePreviews(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes, previews, domainProofs: proofs, previewTargets, place, apiHostnames } = api;
  const { stores } = sandboxes;
  const { ending } = sandboxes.shutdown;
  const { sandboxDomain } = place;

  const replyOf = (preview: Preview): wire.PreviewReply => {
    const { organizationId, customHostname } = preview;
    const proof =
      customHostname === undefined || !proofs.required ? undefined : proofs.recordFor(organizationId, customHostname);
    return wire.previewReplyOf(preview, { sandboxDomain, proof });
  };

  serve(app, ending, wire.createPreview, async ({ organizationId, parameter, body, request: { headers }, reply }) => {
    const sandboxId = parseSandboxId(parameter("id"));
    const { port, domain } = body;
    // The name that this very request came by is one of the API's, whether it is configured or not.
    const own = new Set([...apiHostnames, hostnameOf(headers.host)]);
    const customHostname =
      domain === undefined || domain === "" ? undefined : wire.customHostnameFrom(domain, sandboxDomain, own);
    const request = { organizationId, sandboxId, port, customHostname };
    const { preview, added } = await createPreview(sandboxes, { previews, proofs }, request);
    previewTargets.forget();
    reply.status(added ? 201 : 200);
    return replyOf(preview);
  });

  serve(app, ending, wire.listPreviews, async ({ organizationId, parameter }) => {
    const { id } = await stores.sandboxes.get(organizationId, parseSandboxId(parameter("id")));
    return (await previews.list(organizationId, id)).map(replyOf);
  });

  serve(app, ending, wire.deletePreview, async ({ organizationId, parameter }) => {
    const { id } = await stores.sandboxes.get(organizationId, parseSandboxId(parameter("id")));
    const port = wire.portFrom(parameter("port"));
    if (!(await previews.remove(id, port))) throw wire.noPreview(String(port));
    previewTargets.forget();
  });

  serve(app, ending, wire.rotatePreviewToken, async ({ organizationId, parameter }) => {
    const { id } = await stores.sandboxes.get(organizationId, parseSandboxId(parameter("id")));
    const { token, hash } = newPreviewToken();
    await stores.sandboxes.update(id, { previewTokenHash: hash });
    return { previewAuthToken: token, scheme: "bearer" };
  });
}
