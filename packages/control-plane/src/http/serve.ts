import { defaultBodyLimit, parse, type Route } from "@opensandbox/wire/route.ts";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { auditMade } from "./requests/audit-calls.ts";
import { organizationOf } from "./requests/authenticate.ts";
import { callerSignal } from "./requests/caller-signal.ts";
import { readJson } from "./requests/read-json.ts";

/** One request, parsed. */
export interface Call<Body, Query> {
  readonly body: Body;
  readonly query: Query;
  readonly parameter: (name: string) => string;
  readonly organizationId: string;
  /** Aborted when the caller disconnects or the server shuts down. */
  readonly signal: AbortSignal;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
}

/** Returned by a handler that has sent its answer itself. */
export const answered = Symbol("answered");

/** Serves a route: parses the request, calls the handler and sends its result, with the route's status unless it set another. */
export function serve<Body, Query, Reply>(
  app: FastifyInstance,
  ending: AbortSignal,
  route: Route<Body, Query, Reply>,
  handler: (call: Call<Body, Query>) => Promise<Reply | typeof answered>,
): void {
  app.route({
    method: route.method,
    url: route.path,
    handler: async (request, reply) => {
      const signal = callerSignal(reply, ending);
      // The status is set first, since the handler may choose another one.
      reply.status(route.status);
      const result = await handler({
        query: (route.query === undefined ? undefined : parse(route.query, request.query)) as Query,
        body: (route.body === undefined
          ? undefined
          : parse(route.body, await readJson(request.raw, route.bodyLimit ?? defaultBodyLimit))) as Body,
        parameter: (name) => (request.params as Record<string, string>)[name] ?? "",
        organizationId: organizationOf(request),
        signal,
        request,
        reply,
      });
      if (result === answered) return reply;
      auditMade(request, result);
      return route.reply === undefined ? reply.send() : reply.send(result);
    },
  });
}
