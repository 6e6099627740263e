import { STATUS_CODES, type IncomingMessage, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { isSandboxError, type ErrorCode } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import type { PreviewTarget } from "#previews/preview-target.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { failureOf } from "../reply-error.ts";

/** An answer by this server in place of the sandbox's. */
export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

const refreshSeconds = 1;

/** The page that a browser shows during a wake. */
export const wakingAnswer = page(503, "Waking up", "This sandbox was hibernated. It will be ready in a moment.", {
  refresh: true,
});

/** The reason why the sandbox does not answer: a page for a browser, JSON for any other client. */
export function failureAnswer(
  request: IncomingMessage,
  { port }: PreviewTarget,
  error: unknown,
  context: Pick<SandboxContext, "log" | "shutdown">,
): Answer {
  const isBrowser = (request.headers.accept ?? "").includes("text/html");
  if (isSandboxError(error, "not_found") && error.details.resource === "port") {
    const message = `nothing listens on port ${port} of this sandbox`;
    return isBrowser
      ? page(503, "Not there yet", `Nothing listens on port ${port} of this sandbox. This page reloads by itself.`, {
          refresh: true,
        })
      : jsonAnswer(502, { error: message, code: "unavailable", retryable: true });
  }
  const requestId = `req-${randomHex(8)}`;
  const { status, body } = failureOf(error, requestId, context);
  const answer = isBrowser
    ? page(status, titleOf(body.code), `${body.error}.`, { refresh: false })
    : jsonAnswer(status, body);
  if (status !== 401) return answer;
  return { ...answer, headers: { ...answer.headers, "www-authenticate": 'Bearer realm="preview"' } };
}

/** Sends the answer, or cuts the connection when another answer has begun. */
export function sendAnswer(response: ServerResponse, { status, headers, body }: Answer): void {
  if (response.headersSent) return void response.destroy();
  // Sets the reason phrase, or Node would send that of the sandbox's invalid answer.
  response.writeHead(status, STATUS_CODES[status], headers);
  response.end(body);
}

export function answerOnSocket(socket: Duplex, { status, headers, body }: Answer): void {
  const all = { ...headers, connection: "close", "content-length": String(Buffer.byteLength(body)) };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join("")}\r\n${body}`);
}

const titles: Partial<Record<ErrorCode, string>> = {
  not_found: "No such sandbox",
  gone: "This sandbox has ended",
  unauthenticated: "A token is required",
};

function titleOf(code: ErrorCode | undefined): string {
  return (code && titles[code]) ?? "This sandbox cannot be reached";
}

export function jsonAnswer(status: number, body: object): Answer {
  return {
    status,
    headers: { "content-type": "application/json", "cache-control": "no-store" },
    body: JSON.stringify(body),
  };
}

function page(status: number, title: string, text: string, { refresh }: { readonly refresh: boolean }): Answer {
  const again = refresh ? `<meta http-equiv="refresh" content="${refreshSeconds}">` : "";
  return {
    status,
    headers: {
      "content-type": "text/html; charset=utf-8",
      "cache-control": "no-store",
      "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
      ...(refresh ? { "retry-after": String(refreshSeconds) } : {}),
    },
    body: `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>${escaped(title)}</title>${again}
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:20vh auto;padding:0 1em;color:#333}</style></head>
<body><h1>${escaped(title)}</h1><p>${escaped(text)}</p></body>
</html>
`,
  };
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}
