import { SandboxError } from "@opensandbox/wire/errors.ts";
import { e2bErrorOf } from "@opensandbox/wire/e2b/errors.ts";
import { notYet } from "@opensandbox/wire/e2b/not-yet.ts";
import type { FastifyInstance } from "fastify";
import { auditCalls } from "#http/requests/audit-calls.ts";
import { requireKey, type RouteOf } from "#http/requests/authenticate.ts";
import { failureOf } from "#http/reply-error.ts";
import type { E2bContext } from "../e2b-context.ts";
import { authenticatorOf } from "./keys.ts";
import { serveLogs } from "./logs.ts";
import { serveMetrics } from "./metrics.ts";
import { serveSandboxes } from "./sandboxes.ts";
import { serveSnapshots } from "./snapshots.ts";
import { serveTemplateBuilds, serveTemplateUploads } from "./template-builds.ts";
import { serveTemplates } from "./templates.ts";

/** Serves E2B's REST interface beside our own. */
export async function serveE2bApi(app: FastifyInstance, context: E2bContext): Promise<void> {
  serveTemplateUploads(app, context);
  await app.register((withKey, _options, done) => {
    withKey.setErrorHandler((thrown, request, reply) => {
      const { body } = failureOf(thrown, request.id, context.sandboxes);
      const failure = e2bErrorOf({ code: body.code ?? "internal", message: body.error });
      // Clients repeat a refused request after this time.
      if (failure.status === 429 || failure.status === 503) reply.header("retry-after", "1");
      return reply.status(failure.status).send(failure.body);
    });
    auditCalls(withKey, context.audit, routeOf);
    const { openCalls, callRates } = context;
    requireKey(withKey, { authenticate: authenticatorOf(context.authenticate), openCalls, callRates, routeOf });
    serveSandboxes(withKey, context);
    serveLogs(withKey, context);
    serveMetrics(withKey, context);
    serveSnapshots(withKey, context);
    serveTemplates(withKey, context);
    serveTemplateBuilds(withKey, context);
    for (const [method, url, what] of notYet) {
      withKey.route({
        method,
        url,
        handler: () => {
          throw new SandboxError("not_supported", `this server does not implement ${what}`);
        },
      });
    }
    done();
  });
}

/** Every GET needs the scope `sandboxes:read`, the look-up of a template included: each create begins with one. */
const routeOf: RouteOf = ({ method, routeOptions: { url = "" } }) => {
  const name = `e2b ${method} ${url}`;
  if (method === "GET") return { name, scope: "sandboxes:read" };
  return { name, scope: /^(\/v\d+)?\/templates\b/.test(url) ? "images:write" : "sandboxes:write" };
};
