import { z } from "zod";
import type { Route } from "../route.ts";

const StatusReply = z.object({ status: z.string(), reason: z.string().optional() }).meta({ id: "Status" });
type StatusReply = z.infer<typeof StatusReply>;

export const health: Route<unknown, unknown, StatusReply> = {
  method: "GET",
  path: "/health",
  name: "health",
  summary: "Whether the server answers",
  access: "open",
  status: 200,
  reply: StatusReply,
};

export const alive: Route<unknown, unknown, StatusReply> = {
  method: "GET",
  path: "/healthz",
  name: "alive",
  summary: "Whether the server answers",
  access: "open",
  status: 200,
  reply: StatusReply,
};

export const ready: Route<unknown, unknown, StatusReply> = {
  method: "GET",
  path: "/readyz",
  name: "ready",
  summary: "Whether sandboxes can be created",
  access: "open",
  status: 200,
  reply: StatusReply,
  otherReplies: {
    503: { description: "The server is starting or shutting down; `reason` says which.", reply: StatusReply },
  },
};

export const openApi: Route = {
  method: "GET",
  path: "/openapi.json",
  name: "openApi",
  summary: "This document",
  access: "open",
  status: 200,
  reply: z.unknown(),
};

export const documentation: Route = {
  method: "GET",
  path: "/docs/api",
  name: "documentation",
  summary: "The API as an interactive page",
  access: "open",
  status: 200,
  bytesOut: true,
};
