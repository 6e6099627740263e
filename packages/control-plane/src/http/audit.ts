import { listAuditEntries } from "@opensandbox/wire/public/audit.ts";
import type { FastifyInstance } from "fastify";
import type { ApiContext } from "./api-context.ts";
import { serve } from "./serve.ts";

export function serveAudit(app: FastifyInstance, { audit, sandboxes }: ApiContext): void {
  serve(app, sandboxes.shutdown.ending, listAuditEntries, async ({ organizationId, query }) => {
    const limit = Number(query.limit ?? 100);
    const { cursor } = query;
    const found = await audit.list(organizationId, limit + 1, cursor);
    const entries = found.slice(0, limit);
    return {
      entries: entries.map(({ id, at, actor, keyId, action, method, path, resource, address, requestId, status }) => ({
        ...{ id, at: at.toISOString(), actor, action, method, path, address, requestID: requestId, status },
        ...(keyId === undefined ? {} : { keyID: keyId }),
        ...(resource === undefined ? {} : { resource }),
      })),
      ...(found.length > limit ? { nextCursor: entries.at(-1)!.id } : {}),
    };
  });
}
