import type { FastifyInstance, FastifyRequest } from "fastify";
import type { AuditLog } from "../../audit/audit-log.ts";
import { callerOf, keyRouteOf, type RouteOf } from "./authenticate.ts";

/** The answer of a call, recorded once. */
type Record = (status: number, resource?: string) => void;

const records = new WeakMap<FastifyRequest, Record>();
const made = new WeakMap<FastifyRequest, string>();
/** The status of calls whose answer began as a stream before they failed. */
const failed = new WeakMap<FastifyRequest, number>();

/** Records every call of this instance whose route needs a scope to write, with the status of its answer. */
export function auditCalls(app: FastifyInstance, log: AuditLog, routeOf: RouteOf = keyRouteOf): void {
  app.addHook("onRequest", (request, _reply, done) => {
    const route = routeOf(request);
    if (route?.scope?.endsWith(":write") === true) {
      records.set(request, (status) => {
        records.delete(request);
        const caller = callerOf(request);
        // A call without a known key belongs to no organization.
        if (caller === undefined) return;
        const [path = ""] = request.url.split("?");
        log.add({
          ...{ organizationId: caller.organizationId, actor: caller.actor, keyId: caller.keyId, action: route.name },
          ...{ method: request.method, path, resource: made.get(request), status },
          ...{ address: request.socket.remoteAddress ?? "", requestId: request.id },
        });
      });
    }
    done();
  });
  app.addHook("onResponse", (request, reply, done) => {
    records.get(request)?.(failed.get(request) ?? reply.statusCode);
    done();
  });
}

/** Records that the request's WebSocket is open. */
export function auditOpened(request: FastifyRequest): void {
  records.get(request)?.(101);
}

/** Records the failure of a call whose answer has begun as a stream of events. */
export function auditFailed(request: FastifyRequest, status: number): void {
  failed.set(request, status);
}

/** Records the id in the reply, as that of the resource that the call created. */
export function auditMade(request: FastifyRequest, reply: unknown): void {
  if (typeof reply !== "object" || reply === null || !records.has(request)) return;
  const { sandboxID, id } = reply as { readonly sandboxID?: unknown; readonly id?: unknown };
  const resource = sandboxID ?? id;
  if (typeof resource === "string") made.set(request, resource);
}
