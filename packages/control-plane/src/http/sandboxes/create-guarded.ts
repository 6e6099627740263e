import type { PreviewAuth } from "@opensandbox/wire/public/guests/previews.ts";
import { newPreviewToken } from "#previews/preview-token.ts";
import type { CreatedSandbox } from "#sandboxes/create-sandbox.ts";
import type { ApiContext } from "../api-context.ts";

/** A sandbox that has been created, with the ports and the token that it asked for. */
export interface GuardedSandbox extends CreatedSandbox {
  /** As the reply has it: told once, and only by the create that has set it. */
  readonly previewAuthToken: { readonly previewAuthToken?: string };
}

/** Creates a sandbox whose previews need the token that is asked for, and opens the port of this host that leads to it. */
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
