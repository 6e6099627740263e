import { z } from "zod";
import type { EgressRules, HeaderRules, NetworkPolicy } from "../egress.ts";
import { SandboxError } from "../errors.ts";
import { parseHeaderRules } from "../header-rules.ts";
import { envs } from "../public/fields.ts";
import { egressFrom } from "../public/sandboxes/network.ts";
import type { Route } from "../route.ts";

/** The version of the guest's interface that this server speaks: the clients choose their requests by it. */
export const envdVersion = "0.6.13";

/** Clients require the field, and use it for nothing. */
const clientId = "opensandbox";

/** Seconds that a new sandbox lives unless the request sets a timeout, in versions 2 and 1 of the interface. */
export const defaultLifeSeconds = { second: 300, first: 15 } as const;

const timeoutRule = "timeout must be a whole number of seconds, at least 1";
// 30 days: beyond that, a client most likely passed milliseconds.
const maxTimeoutSeconds = 30 * 86_400;
const timeout = z
  .number(timeoutRule)
  .int(timeoutRule)
  .min(1, timeoutRule)
  .max(maxTimeoutSeconds, `timeout must be at most ${maxTimeoutSeconds} seconds (30 days)`);

const strings = z.record(z.string(), z.string());

/** Strict: what else a rule may contain is not implemented. */
const Rule = z.strictObject({ transform: z.strictObject({ headers: strings.optional() }).optional() });

const NetworkUpdate = z.object({
  allowOut: z.array(z.string()).optional(),
  denyOut: z.array(z.string()).optional(),
  rules: z.record(z.string(), z.array(Rule)).optional(),
  egressProxy: z.unknown().optional(),
  allow_internet_access: z.boolean().optional(),
});
type NetworkUpdate = z.infer<typeof NetworkUpdate>;

const Network = NetworkUpdate.extend({
  allowPublicTraffic: z.boolean().optional(),
  maskRequestHost: z.string().optional(),
  httpsPorts: z.array(z.unknown()).optional(),
});
type Network = z.infer<typeof Network>;

export const NewSandbox = z.object({
  templateID: z.string().optional(),
  timeout: timeout.optional(),
  metadata: strings.optional(),
  envVars: envs.optional(),
  mcp: z.unknown().optional(),
  allow_internet_access: z.boolean().optional(),
  network: Network.optional(),
  iam: z.unknown().optional(),
  autoPause: z.boolean().optional(),
  autoPauseMemory: z.boolean().optional(),
  autoResume: z.object({ enabled: z.boolean().optional() }).optional(),
  volumeMounts: z.array(z.unknown()).optional(),
});
export type NewSandbox = z.infer<typeof NewSandbox>;

/** The reply to a call that starts a sandbox. */
export interface StartedReply {
  readonly templateID: string;
  readonly alias: string;
  readonly sandboxID: string;
  readonly clientID: string;
  readonly envdVersion: string;
  readonly envdAccessToken: string;
  readonly trafficAccessToken?: string;
  readonly domain: string | null;
}

export interface ListedReply {
  readonly sandboxID: string;
  readonly templateID: string;
  readonly alias: string;
  readonly clientID: string;
  readonly startedAt: string;
  readonly endAt: string;
  readonly state: "running" | "paused";
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly diskSizeMB: number;
  readonly envdVersion: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly volumeMounts: readonly never[];
}

export interface DetailReply extends ListedReply {
  readonly domain: string | null;
  readonly envdAccessToken: string;
  readonly allowInternetAccess: boolean;
  readonly lifecycle: { readonly autoResume: boolean; readonly onTimeout: "kill" | "pause" };
  readonly network: {
    readonly allowOut?: readonly string[];
    readonly denyOut?: readonly string[];
    readonly rules?: NonNullable<NetworkUpdate["rules"]>;
  };
}

export interface MetricReply {
  readonly timestamp: string;
  /** Seconds since 1970. */
  readonly timestampUnix: number;
  readonly cpuCount: number;
  readonly cpuUsedPct: number;
  /** Bytes, like every size here. */
  readonly memUsed: number;
  readonly memTotal: number;
  readonly memCache: number;
  readonly diskUsed: number;
  readonly diskTotal: number;
}

const key = { access: "key" } as const;

export const createSecond: Route<NewSandbox, unknown, StartedReply> = {
  ...key,
  ...{ method: "POST", path: "/v2/sandboxes", name: "e2bCreate", summary: "Create a sandbox" },
  body: NewSandbox,
  status: 201,
  reply: z.custom<StartedReply>(),
};

export const createFirst: typeof createSecond = { ...createSecond, path: "/sandboxes", name: "e2bCreateFirst" };

export const ListQuery = z.object({
  limit: z.coerce.number("limit must be a number").int().min(1).max(100, "limit must be at most 100").optional(),
  nextToken: z.string().optional(),
  metadata: z.string().optional(),
  order: z.enum(["asc", "desc"]).optional(),
  startedAfter: z.string().optional(),
  state: z.string().optional(),
  template: z.string().optional(),
});
export type ListQuery = z.infer<typeof ListQuery>;

export const list: Route<unknown, ListQuery, ListedReply[]> = {
  ...key,
  ...{ method: "GET", path: "/v2/sandboxes", name: "e2bList", summary: "List sandboxes" },
  query: ListQuery,
  status: 200,
  reply: z.custom<ListedReply[]>(),
};

export const listFirst: typeof list = { ...list, path: "/sandboxes", name: "e2bListFirst" };

export const get: Route<unknown, unknown, DetailReply> = {
  ...key,
  ...{ method: "GET", path: "/sandboxes/:id", name: "e2bGet", summary: "Get a sandbox" },
  status: 200,
  reply: z.custom<DetailReply>(),
};

export const kill: Route = {
  ...key,
  ...{ method: "DELETE", path: "/sandboxes/:id", name: "e2bKill", summary: "End a sandbox" },
  status: 204,
};

export const setEnd: Route<{ timeout: number }> = {
  ...key,
  ...{ method: "POST", path: "/sandboxes/:id/timeout", name: "e2bSetTimeout", summary: "Set the end of a sandbox" },
  body: z.object({ timeout }),
  status: 204,
};

export const refresh: Route<{ duration?: number | undefined }> = {
  ...key,
  ...{ method: "POST", path: "/sandboxes/:id/refreshes", name: "e2bRefresh", summary: "Extend a sandbox's life" },
  body: z.object({ duration: timeout.optional() }),
  status: 204,
};

export const pause: Route<{ memory?: boolean | undefined }> = {
  ...key,
  ...{ method: "POST", path: "/sandboxes/:id/pause", name: "e2bPause", summary: "Pause a sandbox" },
  body: z.object({ memory: z.boolean().optional() }),
  status: 204,
};

export const ConnectBody = z.object({ timeout: timeout.optional(), memory: z.boolean().optional() });
export type ConnectBody = z.infer<typeof ConnectBody>;

export const connectSecond: Route<ConnectBody, unknown, StartedReply> = {
  ...key,
  ...{ method: "POST", path: "/v2/sandboxes/:id/connect", name: "e2bConnect", summary: "Resume a sandbox if paused" },
  body: ConnectBody,
  status: 200,
  reply: z.custom<StartedReply>(),
};

export const connectFirst: typeof connectSecond = {
  ...connectSecond,
  path: "/sandboxes/:id/connect",
  name: "e2bConnectFirst",
};

export const resume: typeof connectSecond = {
  ...connectSecond,
  path: "/sandboxes/:id/resume",
  name: "e2bResume",
  status: 201,
};

export const setNetwork: Route<NetworkUpdate> = {
  ...key,
  ...{ method: "PUT", path: "/sandboxes/:id/network", name: "e2bSetNetwork", summary: "Replace the egress rules" },
  body: NetworkUpdate,
  status: 204,
};

export const MetricsQuery = z.object({ start: z.coerce.number().optional(), end: z.coerce.number().optional() });
export type MetricsQuery = z.infer<typeof MetricsQuery>;

export const metrics: Route<unknown, MetricsQuery, MetricReply[]> = {
  ...key,
  ...{ method: "GET", path: "/sandboxes/:id/metrics", name: "e2bMetrics", summary: "Measure a sandbox" },
  query: MetricsQuery,
  status: 200,
  reply: z.custom<MetricReply[]>(),
};

/** Refuses the parts of a request that this server does not implement. @throws `not_supported` */
export function refuseUnimplemented({ mcp, iam, volumeMounts = [], network = {} }: NewSandbox): void {
  refuse({ "the MCP gateway (mcp)": mcp, "identity tokens (iam)": iam, volumes: volumeMounts[0] });
  refuseNetwork(network);
}

function refuseNetwork({ egressProxy, maskRequestHost, httpsPorts = [] }: Network): void {
  refuse({
    "an egress proxy (network.egressProxy)": egressProxy,
    "network.maskRequestHost": maskRequestHost,
    "network.httpsPorts": httpsPorts[0],
  });
}

function refuse(asked: Readonly<Record<string, unknown>>): void {
  const name = Object.keys(asked).find((part) => asked[part] !== undefined && asked[part] !== null);
  if (name !== undefined) throw new SandboxError("not_supported", `this server does not implement ${name}`);
}

/** Ranges that denote every address. */
const everything: ReadonlySet<string> = new Set(["0.0.0.0/0", "::/0"]);

/**
 * The network policy that a client asks for. In E2B's interface an allowed destination takes precedence over a denied
 * one; in our policy it is the reverse. Rules that depend on E2B's order are refused. @throws `not_supported`
 */
export function networkPolicyOf(network: NetworkUpdate, internetAccess: boolean | undefined): NetworkPolicy {
  refuseNetwork(network);
  const allowed = (network.allowOut ?? []).filter((target) => !everything.has(target));
  const denied = (network.denyOut ?? []).filter((target) => !everything.has(target));
  const deniesAll = internetAccess === false || denied.length < (network.denyOut ?? []).length;
  const headers = headerRulesOf(network.rules);
  const enabled = (lists: EgressRules): NetworkPolicy => {
    const egress = egressFrom({ ...lists, headers });
    return { enabled: true, ...(egress === undefined ? {} : { egress }) };
  };
  if (deniesAll) return allowed.length === 0 ? { enabled: false } : enabled({ allow: allowed });
  if (denied.length === 0) return enabled({});
  if (allowed.length === 0) return enabled({ deny: denied });
  const message =
    "network: allowOut beside a denyOut other than 0.0.0.0/0 is not implemented: an allowed destination cannot take " +
    "precedence over a denied range";
  throw new SandboxError("not_supported", message);
}

/** The headers of all rules of a host; a later rule takes precedence. @throws `invalid_argument` for a wrong header */
function headerRulesOf(rules: NonNullable<NetworkUpdate["rules"]> = {}): HeaderRules {
  const headers = Object.fromEntries(
    Object.entries(rules).map(([host, list]) => [
      host,
      Object.assign({}, ...list.map(({ transform }) => transform?.headers ?? {})) as Record<string, string>,
    ]),
  );
  parseHeaderRules(headers);
  return headers;
}

/** The outgoing rules of a sandbox as clients read them. */
export function networkReplyOf({ networkEnabled, egress }: SandboxFacts): DetailReply["network"] {
  if (!networkEnabled) return { denyOut: ["0.0.0.0/0"] };
  const { allow, deny = [], headers } = egress ?? {};
  const rules = headers && Object.entries(headers).map(([host, own]) => [host, [{ transform: { headers: own } }]]);
  return {
    ...(allow === undefined ? {} : { allowOut: allow, denyOut: ["0.0.0.0/0", ...deny] }),
    ...(allow === undefined && deny.length > 0 ? { denyOut: deny } : {}),
    ...(rules === undefined ? {} : { rules: Object.fromEntries(rules) as NonNullable<NetworkUpdate["rules"]> }),
  };
}

/** What the replies say about a sandbox, in our own terms. */
export interface SandboxFacts {
  readonly id: string;
  readonly template: string;
  readonly createdAt: Date;
  /** Undefined: no end is set. */
  readonly endsAt: Date | undefined;
  readonly paused: boolean;
  readonly wakesOnUse: boolean;
  readonly atEnd: "delete" | "hibernate";
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
  readonly metadata: Readonly<Record<string, string>>;
  readonly networkEnabled: boolean;
  readonly egress?: EgressRules | undefined;
}

/** Clients require an end: the latest time that their parsers accept stands for none. */
const noEnd = new Date("9999-12-31T23:59:59.999Z");

export function listedReplyOf(facts: SandboxFacts): ListedReply {
  return {
    sandboxID: facts.id,
    templateID: facts.template,
    alias: facts.template,
    clientID: clientId,
    startedAt: facts.createdAt.toISOString(),
    endAt: (facts.endsAt ?? noEnd).toISOString(),
    state: facts.paused ? "paused" : "running",
    cpuCount: facts.vcpus,
    memoryMB: facts.memoryMib,
    diskSizeMB: facts.workspaceMib,
    envdVersion,
    metadata: facts.metadata,
    volumeMounts: [],
  };
}

export interface Access {
  readonly accessToken: string;
  /** The domain under which ports are reached. Undefined: the client's own setting. */
  readonly domain: string | undefined;
}

export function detailReplyOf(facts: SandboxFacts, { accessToken, domain }: Access): DetailReply {
  return {
    ...listedReplyOf(facts),
    domain: domain ?? null,
    envdAccessToken: accessToken,
    allowInternetAccess: facts.networkEnabled,
    lifecycle: { autoResume: facts.wakesOnUse, onTimeout: facts.atEnd === "delete" ? "kill" : "pause" },
    network: networkReplyOf(facts),
  };
}

export function startedReplyOf(
  { id, template }: Pick<SandboxFacts, "id" | "template">,
  { accessToken, domain, trafficToken }: Access & { readonly trafficToken?: string | undefined },
): StartedReply {
  return {
    templateID: template,
    alias: template,
    sandboxID: id,
    clientID: clientId,
    envdVersion,
    envdAccessToken: accessToken,
    ...(trafficToken === undefined ? {} : { trafficAccessToken: trafficToken }),
    domain: domain ?? null,
  };
}

/**
 * The metadata that a list asks for. Clients encode it three times: as the value of a query, as a query of its own, and
 * each name and value once more. Broken encodings count as plain text.
 */
export function metadataFrom(text: string): ReadonlyMap<string, string> {
  return new Map([...new URLSearchParams(text)].map(([name, value]) => [decoded(name), decoded(value)]));
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The states that a list asks for, as `running,paused`. Default: both. @throws `invalid_argument` */
export function statesFrom(text: string | undefined): ReadonlySet<"running" | "paused"> {
  const names = (text ?? "running,paused").split(",");
  const states = names.filter((name) => name === "running" || name === "paused");
  if (states.length === names.length) return new Set(states);
  throw new SandboxError("invalid_argument", "state must be running, paused or both");
}
