import { listAuditEntries } from "@opensandbox/wire/public/audit.ts";
import type { HttpClient } from "#transport/http.ts";

/** A call that changed something, or was refused. */
export interface AuditEntry {
  /** Sorts by time. */
  readonly id: string;
  readonly at: string;
  /** The name and the beginning of the key, or a user of the server's host. */
  readonly actor: string;
  /** Absent: a fixed key, or a user of the server's host. */
  readonly keyId?: string;
  /** The operation, such as `createSandbox`. */
  readonly action: string;
  readonly method: string;
  readonly path: string;
  /** The id of the resource that the call created. */
  readonly resource?: string;
  /** The address of the client's connection. */
  readonly address: string;
  readonly requestId: string;
  /** The status of the answer. */
  readonly status: number;
}

export interface AuditPage {
  /** Newest first. */
  readonly entries: readonly AuditEntry[];
  /** The cursor of the next, older page. Absent on the last page. */
  readonly nextCursor?: string;
}

export interface AuditClient {
  /** Lists a page of the organization's audit log. Requires a key with the scope `admin:read`. */
  list(
    options?: { readonly limit?: number | undefined; readonly cursor?: string | undefined },
    signal?: AbortSignal,
  ): Promise<AuditPage>;
}

export function auditClient(http: HttpClient): AuditClient {
  return {
    async list({ limit, cursor } = {}, signal) {
      const query = {
        ...(limit === undefined ? {} : { limit: String(limit) }),
        ...(cursor === undefined ? {} : { cursor }),
      };
      const { entries, nextCursor } = await http.call(listAuditEntries, { query }, signal);
      return {
        entries: entries.map(({ keyID, requestID, resource, ...entry }) => ({
          ...entry,
          requestId: requestID,
          ...(keyID === undefined ? {} : { keyId: keyID }),
          ...(resource === undefined ? {} : { resource }),
        })),
        ...(nextCursor === undefined ? {} : { nextCursor }),
      };
    },
  };
}
