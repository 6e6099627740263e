import { createSessionToken, csrfHeader, dashboardPath, signIn, signOut } from "@opensandbox/wire/dashboard.ts";
import { version } from "@opensandbox/wire/version.ts";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { ApiContext } from "../api-context.ts";
import { answered, serve } from "../serve.ts";

/** The life of the tokens that the page uses for the API. The page gets a new one before each ends. */
const tokenSeconds = 300;

/** Serves the sessions of the dashboard. */
export function serveSessions(app: FastifyInstance, api: ApiContext): void {
  const { dashboard, sandboxes, audit } = api;
  const { sessions } = dashboard;
  const { ending } = sandboxes.shutdown;

  const record = (request: FastifyRequest, { organizationId, actor, keyId }: Awaited<ReturnType<typeof callerFor>>) =>
    audit.add({
      ...{ organizationId, actor, keyId, action: signIn.name, method: signIn.method, path: signIn.path, status: 200 },
      ...{ address: request.socket.remoteAddress ?? "", requestId: request.id },
    });
  const callerFor = async ({
    apiKey,
    link,
  }: {
    readonly apiKey?: string | undefined;
    readonly link?: string | undefined;
  }) => (link === undefined ? await api.authenticate(apiKey) : sessions.takeLink(link));

  serve(app, ending, signIn, async ({ body, request, reply }) => {
    const caller = await callerFor(body);
    const { cookie, csrfToken, seconds } = sessions.open(caller);
    record(request, caller);
    setCookie(request, reply, cookie, seconds);
    return { csrfToken };
  });

  serve(app, ending, createSessionToken, async ({ request, reply }) => {
    const caller = sessions.callerOf(cookieOf(request), csrfTokenOf(request));
    const organization = await dashboard.organization(caller);
    const token = api.tokens.create(caller, { seconds: tokenSeconds });
    reply.header("cache-control", "no-store");
    const { actor, scopes } = caller;
    return { token, expiresInSeconds: tokenSeconds, organization, actor, scopes: [...scopes], version };
  });

  serve(app, ending, signOut, ({ request, reply }) => {
    sessions.close(cookieOf(request), csrfTokenOf(request));
    setCookie(request, reply, "", 0);
    reply.send();
    return Promise.resolve(answered);
  });

  function setCookie(request: FastifyRequest, reply: FastifyReply, value: string, seconds: number): void {
    // A client that lies about its proxy changes its own cookie alone.
    const isSecure = api.tls !== undefined || request.headers["x-forwarded-proto"] === "https";
    const attributes = `Path=${dashboardPath}; Max-Age=${seconds}; HttpOnly; SameSite=Strict${isSecure ? "; Secure" : ""}`;
    reply.header("set-cookie", `${sessions.cookieName}=${value}; ${attributes}`);
    reply.header("cache-control", "no-store");
  }

  function cookieOf({ headers }: FastifyRequest): string | undefined {
    const start = `${sessions.cookieName}=`;
    const found = (headers.cookie ?? "").split(/; */).find((each) => each.startsWith(start));
    return found?.slice(start.length);
  }
}

function csrfTokenOf({ headers }: FastifyRequest): string | undefined {
  const token = headers[csrfHeader];
  return typeof token === "string" ? token : undefined;
}
