import { dashboardPath } from "@opensandbox/wire/dashboard.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { ApiContext } from "../api-context.ts";
import { PageFiles } from "../pages/page-files.ts";
import { forOwnOrigin, immutable, sendPage } from "../pages/send-page.ts";
import { serveSessions } from "./sessions.ts";

/** The dashboard: its page, its files and its sessions. The page reaches everything else by the API. */
export function serveDashboard(app: FastifyInstance, api: ApiContext): void {
  const files = new PageFiles(api.dashboard.files ?? refuse);
  app.get("/", (_request, reply) => reply.redirect(dashboardPath));
  app.register((own, _options, done) => {
    own.addHook("onRequest", forOwnOrigin);
    serveSessions(own, api);
    own.get(`${dashboardPath}/assets/:name`, async (request, reply) => {
      const { name } = request.params as { readonly name: string };
      const file = await files.get(`assets/${name}`);
      if (file === undefined)
        throw new SandboxError("not_found", `the dashboard has no file ${name}: load the page again`, {
          resource: "route",
          id: name,
        });
      return await sendPage(request, reply, file, immutable);
    });
    const page = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
      const file = await files.get("index.html");
      if (file === undefined) throw new SandboxError("internal", "the built dashboard has no index.html");
      return await sendPage(request, reply, file);
    };
    own.get(dashboardPath, page);
    // The page itself reads the rest of the path.
    own.get(`${dashboardPath}/*`, page);
    done();
  });
}

async function refuse(): Promise<never> {
  throw new SandboxError("not_found", "this server has no dashboard", { resource: "route", id: dashboardPath });
}
