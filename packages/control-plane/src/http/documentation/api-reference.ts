import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { documentation, openApi } from "@opensandbox/wire/public/health.ts";
import type { FastifyInstance, FastifyReply } from "fastify";
import { pagePolicy } from "../pages/send-page.ts";
import { answered, serve } from "../serve.ts";

const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>OpenSandbox API</title>
<link rel="stylesheet" href="${documentation.path}/swagger-ui.css">
<script defer src="${documentation.path}/swagger-ui-bundle.js"></script>
<script defer src="${documentation.path}/start.js"></script>
</head>
<body>
<noscript><a href="${openApi.path}">The OpenAPI document</a></noscript>
<div id="page"></div>
</body>
</html>
`;

// The page has no validator, which would send the address of this server to another host.
const start = `SwaggerUIBundle({
  url: ${JSON.stringify(openApi.path)},
  dom_id: "#page",
  deepLinking: true,
  docExpansion: "none",
  displayRequestDuration: true,
  validatorUrl: null,
});
`;

/** The API as a page: Swagger UI over the OpenAPI document. Its files are read when the page is first asked for. */
export function serveApiReference(app: FastifyInstance, ending: AbortSignal): void {
  serve(app, ending, documentation, async ({ reply }) => {
    await send(reply, "text/html; charset=utf-8", page);
    return answered;
  });
  const script = "text/javascript; charset=utf-8";
  app.get(`${documentation.path}/start.js`, (_request, reply) => send(reply, script, start));
  for (const [type, url] of [
    ["text/css; charset=utf-8", import.meta.resolve("swagger-ui-dist/swagger-ui.css")],
    [script, import.meta.resolve("swagger-ui-dist/swagger-ui-bundle.js")],
  ] as const) {
    let content: Promise<Buffer> | undefined;
    app.get(`${documentation.path}/${basename(url)}`, async (_request, reply) => {
      content ??= readFile(fileURLToPath(url));
      return send(reply, type, await content);
    });
  }
}

async function send(reply: FastifyReply, type: string, content: string | Buffer): Promise<FastifyReply> {
  return await reply.type(type).headers(pagePolicy).header("cache-control", "max-age=3600").send(content);
}
