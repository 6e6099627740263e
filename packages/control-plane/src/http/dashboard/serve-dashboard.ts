import { dashboardPath } from "@opensandbox/wire/dashboard.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { ApiContext } from "../api-context.ts";
import { PageFiles } from "./page-files.ts";
import { serveSessions } from "./sessions.ts";

/** Scripts, styles and data come from this origin only. The server writes no script or style into the page. */
const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data: blob:",
  "font-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** The dashboard: its page, its files and its sessions. The page reaches everything else by the API. */
export function serveDashboard(app: FastifyInstance, api: ApiContext): void {
  const files = new PageFiles(api.dashboard.files);
  app.get("/", (_request, reply) => reply.redirect(dashboardPath));
  app.register((own, _options, done) => {
    own.addHook("onRequest", (_request, reply, next) => {
      // No other origin uses these routes.
      reply.raw.removeHeader("access-control-allow-origin");
      reply.raw.removeHeader("access-control-expose-headers");
      next();
    });
    serveSessions(own, api);
    own.get(`${dashboardPath}/assets/:name`, async (request, reply) => {
      const { name } = request.params as { readonly name: string };
      const file = await files.asset(name);
      if (file === undefined)
        throw new SandboxError("not_found", `the dashboard has no file ${name}: load the page again`, {
          resource: "route",
          id: name,
        });
      // A file's name contains the hash of its content.
      return await send(request, reply, file, "public, max-age=31536000, immutable");
    });
    const page = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> =>
      await send(request, reply, await files.page(), "no-cache");
    own.get(dashboardPath, page);
    // The page itself reads the rest of the path.
    own.get(`${dashboardPath}/*`, page);
    done();
  });
}

async function send(
  request: FastifyRequest,
  reply: FastifyReply,
  { type, content, compressed }: { readonly type: string; readonly content: Buffer; readonly compressed: Buffer },
  cacheControl: string,
): Promise<FastifyReply> {
  const gzip = /\bgzip\b/.test(request.headers["accept-encoding"] ?? "");
  if (gzip) reply.header("content-encoding", "gzip");
  return await reply
    .type(type)
    .header("vary", "accept-encoding")
    .header("cache-control", cacheControl)
    .header("content-security-policy", contentSecurityPolicy)
    .header("cross-origin-opener-policy", "same-origin")
    .header("cross-origin-resource-policy", "same-origin")
    .header("x-content-type-options", "nosniff")
    .header("referrer-policy", "no-referrer")
    .send(gzip ? compressed : content);
}
