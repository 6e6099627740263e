import { setTimeout } from "node:timers/promises";
import { asSandboxError } from "@opensandbox/wire/errors.ts";
import { documentation as apiReference } from "@opensandbox/wire/public/health.ts";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { ApiContext } from "../api-context.ts";
import { type PageFile, PageFiles } from "../pages/page-files.ts";
import { forOwnOrigin, immutable, pagePolicy, sendPage } from "../pages/send-page.ts";
import { serveApiReference } from "./api-reference.ts";

const documentationPath = "/docs";

/** A build that takes longer than this is announced by a page that loads itself again. */
const patienceMs = 1000;
const reloadSeconds = 2;

/** The documentation site, and the API reference below it. */
export function serveDocumentation(app: FastifyInstance, api: ApiContext): void {
  serveApiReference(app, api.sandboxes.shutdown.ending);
  if (api.documentationFiles === undefined) {
    app.get(documentationPath, (_request, reply) => reply.redirect(apiReference.path));
    return;
  }
  const files = new PageFiles(api.documentationFiles);
  /** Why a build that was announced failed. The next request reports it, and the one after that tries again. */
  let failure: unknown;
  const find = async (path: string): Promise<PageFile | "missing" | "building"> => {
    if (failure !== undefined) {
      const reported = failure;
      failure = undefined;
      throw reported;
    }
    const work = pageOf(files, path);
    const found = await unlessBuilding(work);
    if (found === "building")
      work.catch((error: unknown) => {
        failure = error;
      });
    return found;
  };
  app.register((own, _options, done) => {
    own.addHook("onRequest", forOwnOrigin);
    const page = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
      const { "*": path = "" } = request.params as { readonly "*"?: string };
      let found: PageFile | "missing" | "building";
      try {
        found = await find(path);
      } catch (error) {
        return await sendNotice(reply, "The documentation is not available", asSandboxError(error).message);
      }
      if (found === "building") {
        reply.header("refresh", String(reloadSeconds));
        return await sendNotice(
          reply,
          "The documentation is being built",
          "This page loads itself again when it is ready.",
        );
      }
      if (found !== "missing")
        return await sendPage(request, reply, found, path.startsWith("assets/") ? immutable : undefined);
      const missing = await files.get("404.html");
      reply.status(404);
      return missing === undefined ? await reply.send() : await sendPage(request, reply, missing);
    };
    own.get(documentationPath, page);
    own.get(`${documentationPath}/*`, page);
    done();
  });
}

/** Addresses of pages have no ending. */
async function pageOf(files: PageFiles, path: string): Promise<PageFile | "missing"> {
  for (const name of path === "" ? ["index.html"] : [path, `${path}.html`]) {
    const file = await files.get(name);
    if (file !== undefined) return file;
  }
  return "missing";
}

async function unlessBuilding<T>(work: Promise<T>): Promise<T | "building"> {
  const waiting = new AbortController();
  try {
    const { signal } = waiting;
    return await Promise.race([work, setTimeout(patienceMs, "building" as const, { signal })]);
  } finally {
    waiting.abort();
  }
}

async function sendNotice(reply: FastifyReply, title: string, text: string): Promise<FastifyReply> {
  return await reply
    .status(503)
    .type("text/html; charset=utf-8")
    .header("cache-control", "no-store")
    .headers(pagePolicy).send(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<h1>${title}</h1>
<p>${escaped(text)}</p>
<p><a href="${apiReference.path}">The API reference</a> is available.</p>
</html>
`);
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
