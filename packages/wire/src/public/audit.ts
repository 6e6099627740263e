import { z } from "zod";
import type { Route } from "../route.ts";

const AuditEntry = z
  .object({
    id: z.string().meta({ description: "Sorts by time." }),
    at: z.iso.datetime().meta({ description: "When the call was answered, or its WebSocket opened." }),
    actor: z.string().meta({ description: "The name and the beginning of the key, or a user of the host." }),
    keyID: z.string().optional().meta({ description: "Absent: a fixed key, or a user of the host." }),
    action: z.string().meta({ description: "The operationId of the route, such as createSandbox." }),
    method: z.string(),
    path: z.string().meta({ description: "Without its query." }),
    resource: z.string().optional().meta({ description: "The id of the resource that the call created." }),
    address: z.string().meta({ description: "The address of the client's connection." }),
    requestID: z.string(),
    status: z.int().meta({ description: "The status of the answer. 101: a WebSocket opened." }),
  })
  .meta({ id: "AuditEntry" });
export type AuditEntry = z.infer<typeof AuditEntry>;

const AuditPage = z
  .object({
    entries: z.array(AuditEntry),
    nextCursor: z
      .string()
      .optional()
      .meta({ description: "The cursor of the next, older page. Absent on the last page." }),
  })
  .meta({ id: "AuditPage" });
export type AuditPage = z.infer<typeof AuditPage>;

const AuditQuery = z.object({
  limit: z
    .string()
    .regex(/^([1-9]\d{0,2}|1000)$/, "limit: must be a whole number from 1 to 1000")
    .optional()
    .meta({ description: "1 to 1000. Default: 100." }),
  cursor: z
    .string()
    .regex(/^[0-9a-f]{32}$/, "cursor: not a cursor of this list")
    .optional()
    .meta({ description: "`nextCursor` of the previous page." }),
});
export type AuditQuery = z.infer<typeof AuditQuery>;

export const listAuditEntries: Route<unknown, AuditQuery, AuditPage> = {
  method: "GET",
  path: "/api/audit",
  name: "listAuditEntries",
  summary: "List the calls that changed something in the organization, newest first",
  description:
    "Every call with a route of scope `write` is recorded, refused ones too, unless its key is unknown. Entries appear " +
    "within a second and are kept for OPENSANDBOX_AUDIT_RETENTION_DAYS.",
  access: "key",
  query: AuditQuery,
  status: 200,
  reply: AuditPage,
};
