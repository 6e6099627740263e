import { randomUUID } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { PreviewStore } from "./preview-store.ts";
import type { Preview } from "./preview.ts";

export interface CreatePreview {
  readonly organizationId: string;
  readonly sandboxId: SandboxId;
  readonly port: number;
  readonly customHostname?: string | undefined;
}

/** Adds a preview of a sandbox's port, or returns the one that the port has already. */
export async function createPreview(
  { stores, clock }: SandboxContext,
  previews: PreviewStore,
  request: CreatePreview,
): Promise<{ readonly preview: Preview; readonly added: boolean }> {
  const { organizationId, sandboxId } = request;
  const sandbox = await stores.sandboxes.find(sandboxId);
  // A hibernated sandbox is accepted: the first request wakes it.
  const exists = sandbox?.organizationId === organizationId && !sandbox.hidden && sandbox.state !== "stopped";
  if (!exists) throw new SandboxError("invalid_argument", "sandbox is not running or not found");
  return previews.add({ ...request, id: randomUUID(), createdAt: new Date(clock.now()) });
}
