import { createHmac, timingSafeEqual } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { parseSandboxId, type SandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/guests/files.ts";
import { pathOf } from "@opensandbox/wire/route.ts";
import type { FastifyInstance } from "fastify";
import type { Use } from "#lifecycle/activity.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import type { ApiContext } from "../api-context.ts";
import { originOf } from "#http/requests/origin.ts";
import { bodyOf } from "./files.ts";
import { sendFile } from "./send-file.ts";
import { answered, type Call, serve } from "../serve.ts";

/** The routes that make signed URLs, which need a key. */
export function serveSigning(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes } = api;
  const { stores, clock } = sandboxes;
  const { ending } = sandboxes.shutdown;

  for (const [route, target, operation] of [
    [wire.signDownload, wire.downloadSigned, "download"],
    [wire.signUpload, wire.uploadSigned, "upload"],
  ] as const) {
    serve(app, ending, route, async ({ body, organizationId, parameter, request }) => {
      const id = parseSandboxId(parameter("id"));
      await stores.sandboxes.get(organizationId, id);
      const expires = Math.floor(clock.now() / 1000) + wire.signedSecondsFrom(body);
      const query = new URLSearchParams({
        path: body.path,
        expires: `${expires}`,
        signature: signatureOf(api.signingKey, wire.signedText(id, body.path, operation, expires)).toString("hex"),
      });
      return {
        url: `${originOf(request)}${pathOf(target, { id })}?${query.toString()}`,
        expiresAt: new Date(expires * 1000).toISOString(),
      };
    });
  }
}

/** The routes behind signed URLs, which need no key. */
export function serveSigned(app: FastifyInstance, api: ApiContext): void {
  const { worker } = api.sandboxes;
  const { ending } = api.sandboxes.shutdown;

  serve(app, ending, wire.downloadSigned, async (call) => {
    const { use, id } = await useSignedSandbox(api, call, "download");
    using _ = use;
    await sendFile(worker, { id, path: wire.fileFrom(call.query).path }, call, call.signal);
    return answered;
  });

  serve(app, ending, wire.uploadSigned, async (call) => {
    const { use, id } = await useSignedSandbox(api, call, "upload");
    using _ = use;
    await worker.guest(id).files.write(wire.fileFrom(call.query).path, bodyOf(call), {}, call.signal);
  });
}

async function useSignedSandbox(
  { sandboxes, signingKey }: ApiContext,
  { query, parameter, signal }: Call<unknown, wire.SignedQuery>,
  operation: wire.SignedOperation,
): Promise<{ use: Use; id: SandboxId }> {
  const id = parameter("id");
  const { path, expires } = query;
  const expected = signatureOf(signingKey, wire.signedText(id, path, operation, Number(expires)));
  const given = Buffer.from(query.signature, "hex");
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw refused("invalid signature");
  if (Number(expires) * 1000 < sandboxes.clock.now()) throw refused("signed URL expired");
  const sandboxId = parseSandboxId(id);
  const sandbox = await sandboxes.stores.sandboxes.find(sandboxId);
  if (sandbox === undefined) {
    throw new SandboxError("not_found", "sandbox not found", { resource: "sandbox", id });
  }
  return { id: sandboxId, use: await useSandbox(sandboxes, sandbox.organizationId, sandboxId, signal) };
}

function signatureOf(key: string, text: string): Buffer {
  return createHmac("sha256", Buffer.from(key, "hex")).update(text).digest();
}

function refused(message: string): SandboxError {
  return new SandboxError("permission_denied", message);
}
