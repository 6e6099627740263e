import type { PreviewAuth } from "@opensandbox/wire/public/guests/previews.ts";
import { newPreviewToken } from "#previews/preview-token.ts";
import type { CreatedSandbox } from "#sandboxes/create-sandbox.ts";
import type { ApiContext } from "../api-context.ts";

/** A new sandbox with the requested forwarded port and preview token. */
export interface GuardedSandbox extends CreatedSandbox {
  /** Part of the reply: only the create that set the token returns it, once. */
  readonly previewAuthToken: { readonly previewAuthToken?: string };
}

/** Creates a sandbox with a preview token and a forwarded port, as requested. */
export async function createGuarded(
  { hostPorts }: ApiContext,
  previewAuth: PreviewAuth | undefined,
  create: (own: { readonly previewTokenHash: string | undefined }) => Promise<CreatedSandbox>,
): Promise<GuardedSandbox> {
  const auth = previewAuth && newPreviewToken(previewAuth.token);
  const created = await create({ previewTokenHash: auth?.hash });
  const sandbox = await hostPorts.open(created.sandbox);
  const isSet = auth !== undefined && sandbox.previewTokenHash === auth.hash;
  return { ...created, sandbox, previewAuthToken: isSet ? { previewAuthToken: auth.token } : {} };
}
