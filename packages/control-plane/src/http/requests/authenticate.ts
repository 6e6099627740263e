import type { FastifyInstance, FastifyRequest } from "fastify";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { notYet } from "@opensandbox/wire/public/not-yet.ts";
import { publicRoutes } from "@opensandbox/wire/public/routes.ts";
import { grants, routeScopes, type Scope } from "@opensandbox/wire/public/scopes.ts";
import type { Authenticate } from "#organizations/api-keys.ts";
import type { Caller } from "#organizations/caller.ts";
import type { CallRates } from "./call-rates.ts";
import type { OpenCalls } from "./open-calls.ts";

const callers = new WeakMap<FastifyRequest, Caller>();

/** A route with a key: its name and the scope that it needs. */
export interface KeyRoute {
  readonly name: string;
  /** Absent for a route that only replies that it is not implemented. */
  readonly scope?: Scope;
}

const routes: ReadonlyMap<string, KeyRoute> = new Map([
  ...publicRoutes.flatMap(({ method, path, name, access }): [string, KeyRoute][] => {
    const scope = routeScopes[name];
    return access === "key" && scope !== undefined ? [[`${method} ${path}`, { name, scope }]] : [];
  }),
  ...notYet.map(([method, path]): [string, KeyRoute] => [`${method} ${path}`, { name: "notImplemented" }]),
]);

export interface RequireKey {
  readonly authenticate: Authenticate;
  readonly openCalls: OpenCalls;
  readonly callRates: CallRates;
  /** Default: our own routes. */
  readonly routeOf?: RouteOf;
}

/** The route of a request that needs a key. Undefined: no scope allows it. */
export type RouteOf = (request: FastifyRequest) => KeyRoute | undefined;

/** Requires an API key with the route's scope for every route of this instance. */
export function requireKey(app: FastifyInstance, needs: RequireKey): void {
  const { authenticate, openCalls, callRates, routeOf = keyRouteOf } = needs;
  app.addHook("onRequest", async (request, reply) => {
    const caller = await authenticate(keyOf(request));
    callers.set(request, caller);
    const waitSeconds = callRates.take(caller.organizationId);
    if (waitSeconds > 0) {
      reply.header("retry-after", String(waitSeconds));
      const message = `the organization makes more than ${callRates.perSecond} calls a second: try again in ${waitSeconds} s`;
      throw new SandboxError("quota_exceeded", message);
    }
    const route = routeOf(request);
    if (route === undefined || (route.scope !== undefined && !grants(caller.scopes, route.scope))) {
      throw new SandboxError("permission_denied", `the API key lacks the scope ${route?.scope ?? "of this route"}`);
    }
    requireSandbox(caller, request);
    openCalls.add(caller.keyId, request.raw, reply.raw);
  });
}

/** A token for one sandbox is accepted where the path names that sandbox. @throws `permission_denied` */
function requireSandbox({ sandboxId }: Caller, { routeOptions, params }: FastifyRequest): void {
  if (sandboxId === undefined) return;
  const { id } = params as { readonly id?: string };
  if (routeOptions.url?.startsWith("/api/sandboxes/:id") === true && id === sandboxId) return;
  throw new SandboxError("permission_denied", `the token is for the sandbox ${sandboxId} alone`);
}

/** The organization of the request's key; empty on routes without one. */
export function organizationOf(request: FastifyRequest): string {
  return callers.get(request)?.organizationId ?? "";
}

/** @throws `permission_denied` when the request's key lacks a scope that its route alone does not need */
export function requireScope(request: FastifyRequest, scope: Scope): void {
  if (grants(callers.get(request)?.scopes ?? [], scope)) return;
  throw new SandboxError("permission_denied", `the API key lacks the scope ${scope}`);
}

/** The owner of the request's key. Undefined when the key was not accepted. */
export function callerOf(request: FastifyRequest): Caller | undefined {
  return callers.get(request);
}

/** The route of a request that needs a key. Undefined: {@link routeScopes} has no entry for it. */
export function keyRouteOf({ method, routeOptions }: FastifyRequest): KeyRoute | undefined {
  return routes.get(`${method} ${routeOptions.url}`);
}

/** From `X-API-Key`, `Authorization: Bearer`, or `?api_key=` for clients that cannot set headers. */
function keyOf(request: FastifyRequest): string | undefined {
  const header = request.headers["x-api-key"];
  if (typeof header === "string" && header !== "") return header;
  const bearer = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? "");
  if (bearer !== null) return bearer[1];
  const { api_key: inQuery } = request.query as Record<string, unknown>;
  return typeof inQuery === "string" ? inQuery : undefined;
}
