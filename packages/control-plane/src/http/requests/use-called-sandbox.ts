import { parseSandboxId, type SandboxId } from "@opensandbox/wire/ids.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import type { Use } from "#lifecycle/activity.ts";
import type { ApiContext } from "../api-context.ts";
import type { Call } from "../serve.ts";

/** Begins a call to the sandbox that the path names: see {@link useSandbox}. @throws `not_found` */
export async function useCalledSandbox(
  { sandboxes }: ApiContext,
  { parameter, organizationId, signal }: Call<unknown, unknown>,
): Promise<{ readonly use: Use; readonly id: SandboxId }> {
  const id = parseSandboxId(parameter("id"));
  return { id, use: await useSandbox(sandboxes, organizationId, id, signal) };
}
