import type { FastifyReply, FastifyRequest } from "fastify";
import type { PageFile } from "./page-files.ts";

/** Scripts, styles and data come from this origin only. The server writes no script or style into a page. */
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

/** For a file whose name contains the hash of its content. */
export const immutable = "public, max-age=31536000, immutable";

/** Sends a file of built pages under their policy. @param cacheControl default: ask before each use */
export async function sendPage(
  request: FastifyRequest,
  reply: FastifyReply,
  { type, content, compressed }: PageFile,
  cacheControl = "no-cache",
): Promise<FastifyReply> {
  const gzip = /\bgzip\b/.test(request.headers["accept-encoding"] ?? "");
  if (gzip) reply.header("content-encoding", "gzip");
  return await reply
    .type(type)
    .header("vary", "accept-encoding")
    .header("cache-control", cacheControl)
    .headers(pagePolicy)
    .send(gzip ? compressed : content);
}

/** The headers that keep a page from other origins, and other origins from it. */
export const pagePolicy = {
  "content-security-policy": contentSecurityPolicy,
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
} as const;

/** Removes the headers by which the API allows other origins: none of them uses a page. */
export function forOwnOrigin(_request: FastifyRequest, reply: FastifyReply, next: () => void): void {
  reply.raw.removeHeader("access-control-allow-origin");
  reply.raw.removeHeader("access-control-expose-headers");
  next();
}
