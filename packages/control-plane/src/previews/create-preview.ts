import { randomUUID } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { DomainProofs } from "./domain-proofs.ts";
import type { PreviewStore } from "./preview-store.ts";
import type { Preview } from "./preview.ts";

export interface CreatePreview {
  readonly organizationId: string;
  readonly sandboxId: SandboxId;
  readonly port: number;
  readonly customHostname?: string | undefined;
}

/**
 * Adds a preview of a sandbox's port, or returns the one that the port has already. A custom domain must be proved, and is
 * taken from another organization that cannot prove it any more.
 * @throws `invalid_argument` with the DNS record to make
 */
export async function createPreview(
  { stores, clock }: SandboxContext,
  { previews, proofs }: { readonly previews: PreviewStore; readonly proofs: DomainProofs },
  request: CreatePreview,
): Promise<{ readonly preview: Preview; readonly added: boolean }> {
  const { organizationId, sandboxId } = request;
  const sandbox = await stores.sandboxes.find(sandboxId);
  // A hibernated sandbox is accepted: the first request wakes it.
  const exists = sandbox?.organizationId === organizationId && !sandbox.hidden && sandbox.state !== "stopped";
  if (!exists) throw new SandboxError("invalid_argument", "sandbox is not running or not found");
  const preview = { ...request, id: randomUUID(), createdAt: new Date(clock.now()) };
  const { customHostname: hostname } = request;
  const isNew = !(await previews.list(organizationId, sandboxId)).some(({ port }) => port === request.port);
  if (hostname === undefined || !isNew) return await previews.add(preview);
  const domainProvedAt = await proofs.prove(organizationId, hostname);
  const owner = await previews.findDomain(hostname);
  const isForeign = owner !== undefined && owner.organizationId !== organizationId;
  if (isForeign && (await proofs.isAbandoned(owner))) await previews.releaseDomain(owner);
  return await previews.add({ ...preview, domainProvedAt });
}
