import { z } from "zod";
import type { EgressRules } from "../../egress.ts";
import { SandboxError } from "../../errors.ts";
import type { Route } from "../../route.ts";
import type { HypervisorName } from "../../worker/worker.ts";
import { envs } from "../fields.ts";
import { ImageManifest, manifestBodyLimit } from "../images.ts";
import { memoryMb } from "./memory.ts";
import { Egress, egressFrom, writableEgress } from "./network.ts";
import { port, PreviewAuth } from "#public/guests/previews.ts";

const negativeTimeout = "timeout must be non-negative (0 disables auto-hibernate)";
// The largest signed 32-bit number: 68 years.
const maxTimeoutSeconds = 2_147_483_647;

export function timeoutSeconds(absent: string): z.ZodType<number> {
  return z
    .number({ error: (issue) => (issue.input === undefined ? absent : "timeout must be a whole number of seconds") })
    .nonnegative(negativeTimeout)
    .int("timeout must be a whole number of seconds")
    .max(maxTimeoutSeconds, `timeout must be at most ${maxTimeoutSeconds}`)
    .meta({ description: "Idle seconds until the sandbox is hibernated; every call restarts them. 0: never." });
}

const lifetimeRule = `maxLifetime must be a whole number of seconds from 1 to ${maxTimeoutSeconds}`;
const cpuRule = "cpuCount must be a whole number from 1 to 16";
const diskRule = "diskMB must be a whole number";

export const CreateSandboxBody = z
  .object({
    templateID: z
      .string()
      .optional()
      .meta({ description: 'The image to start from. Absent, "", "base", "python", "node": the default image.' }),
    timeout: timeoutSeconds("timeout must be a whole number of seconds").optional(),
    envs: envs.optional(),
    metadata: z
      .record(z.string(), z.string())
      .optional()
      .meta({ description: "Your own labels, stored and not interpreted." }),
    alias: z.string().max(255, "alias must be at most 255 characters").optional(),
    cpuCount: z.number(cpuRule).int(cpuRule).min(1, cpuRule).max(16, cpuRule).optional(),
    memoryMB: memoryMb.optional(),
    diskMB: z
      .number(diskRule)
      .min(20_480, "diskMB must be at least 20480 (20GB)")
      .max(262_144, "diskMB must be at most 262144 (256GB)")
      .int(diskRule)
      .optional()
      .meta({ description: "Size of /workspace." }),
    networkEnabled: z.boolean().optional().meta({ description: "Default: true." }),
    egress: Egress.optional(),
    port: port.optional().meta({ description: "A port of the guest, which `hostPort` of the server forwards to." }),
    ephemeral: z.boolean().optional().meta({
      description: "Delete the sandbox instead of hibernating it: when it is idle, and when the server shuts down.",
    }),
    onTimeout: z
      .enum(["hibernate", "kill"], "onTimeout must be hibernate or kill")
      .optional()
      .meta({ description: "What the idle timeout does. `kill` deletes the sandbox. Default: hibernate." }),
    maxLifetime: z.int(lifetimeRule).min(1, lifetimeRule).max(maxTimeoutSeconds, lifetimeRule).optional().meta({
      description: "Seconds after the create at which the sandbox is deleted, whatever it does. Default: none.",
    }),
    image: ImageManifest.optional().meta({ description: "An image to build and start from, instead of templateID." }),
    snapshot: z.string().optional().meta({ description: "The name of an image to start from, instead of templateID." }),
    secretStore: z
      .string()
      .optional()
      .meta({ description: "The name of a secret store. Needs the scope secrets:read." }),
    previewAuth: PreviewAuth.optional(),
    webhooks: z.array(z.unknown()).optional().meta({ description: "Not implemented." }),
  })
  .meta({ id: "CreateSandbox" });
export type CreateSandboxBody = z.infer<typeof CreateSandboxBody>;

const status = z.enum(["creating", "running", "hibernated", "stopped", "error"]);

export const SandboxReply = z
  .object({
    sandboxID: z.string(),
    status,
    templateID: z.string(),
    template: z.string(),
    alias: z.string(),
    metadata: z.record(z.string(), z.string()),
    cpuCount: z.int(),
    memoryMB: z.int(),
    diskMB: z.int(),
    timeout: z.int().meta({ description: "Idle timeout in seconds; 0: never." }),
    region: z.string(),
    workerID: z.string(),
    sandboxDomain: z.string().meta({ description: "Port P is served at {sandboxID}-pP.{sandboxDomain}." }),
    hypervisor: z
      .enum(["qemu", "firecracker", "fake"])
      .optional()
      .meta({ description: "The program that runs its machines. Memory is restored by the same program alone." }),
    token: z.string().meta({ description: "Empty: every call goes to this server." }),
    networkEnabled: z.boolean(),
    egress: Egress.optional(),
    networkNotEnforced: z
      .array(z.string())
      .optional()
      .meta({ description: "The parts of its network policy that this host cannot enforce, in words." }),
    hostPort: z.int().optional().meta({ description: "The port of the server that forwards to the guest's port." }),
    previewAuthToken: z
      .string()
      .optional()
      .meta({ description: "The token that its previews require. Only the create that asked for it returns it." }),
    createdAt: z.iso.datetime(),
    startedAt: z.iso.datetime().optional(),
    endAt: z.iso.datetime().optional().meta({ description: "When the idle timeout ends if no further call comes." }),
    onTimeout: z.enum(["hibernate", "kill"]).optional().meta({ description: "Absent: hibernate." }),
    deleteAt: z.iso.datetime().optional().meta({ description: "When it is deleted, whatever it does." }),
    stoppedAt: z.iso.datetime().optional(),
    reason: z.string().optional().meta({ description: "Why it does not run, or why its last wake failed." }),
    restoredFrom: z
      .enum(["memory", "disk"])
      .optional()
      .meta({ description: "How it last started: with its memory restored, or booted from its disks." }),
    restoredBecause: z.string().optional().meta({ description: "Why its memory was not restored." }),
    recoveredFrom: z.string().optional().meta({
      description: "The earlier state that it continues from because its worker was lost, until its next hibernation.",
    }),
    fromCheckpointId: z.string().optional().meta({ description: "The checkpoint that it is a fork of." }),
    patchError: z.string().optional().meta({ description: "The patch of that checkpoint that failed, and how." }),
    tags: z.record(z.string(), z.string()),
    tagsLastUpdatedAt: z.iso.datetime().nullable(),
  })
  .meta({ id: "Sandbox" });
export type SandboxReply = z.infer<typeof SandboxReply>;

export const createSandbox: Route<CreateSandboxBody, unknown, SandboxReply> = {
  method: "POST",
  path: "/api/sandboxes",
  name: "createSandbox",
  summary: "Create a sandbox",
  description:
    "Answers when the sandbox accepts commands. With `Accept: text/event-stream` the answer is a stream of events: " +
    "`build_log` (`{step, type, message}`) for progress, then `result` (a Sandbox) or `error` (`{error}`). With an " +
    "`Idempotency-Key` header, creates with the same key return the same sandbox for 24 hours.",
  access: "key",
  body: CreateSandboxBody,
  bodyLimit: manifestBodyLimit,
  status: 201,
  reply: SandboxReply,
  otherReplies: {
    200: {
      description: "Events, when the client asked for them; or the sandbox of an earlier create with the same key.",
    },
  },
};

const tagRule = "tag must be KEY or KEY=VALUE";

/** The part of a list that a call asks for. */
const PageQuery = z.object({
  alias: z.string().optional().meta({ description: "Only sandboxes with this alias." }),
  tag: z.string().min(1, tagRule).max(600, tagRule).optional().meta({
    description: "`KEY=VALUE`: only sandboxes with this tag. `KEY`: those with any value of it.",
  }),
  limit: z
    .string()
    .regex(/^([1-9]\d{0,2}|1000)$/, "limit must be a number from 1 to 1000")
    .optional()
    .meta({ description: "Sandboxes in a page. Default: 100. At most 1000." }),
  after: z
    .string()
    .optional()
    .meta({ description: "The id of the last sandbox of the previous page, which may have stopped since." }),
});
export type PageQuery = z.infer<typeof PageQuery>;

const ListQuery = PageQuery.extend({
  status: z
    .enum(
      ["running", "hibernated", "error", "stopped", "all"],
      "status must be running, hibernated, error, stopped or all",
    )
    .optional()
    .meta({ description: "Default: running. `all`: every sandbox that is not stopped." }),
});
type ListQuery = z.infer<typeof ListQuery>;

export const listSandboxes: Route<unknown, ListQuery, SandboxReply[]> = {
  method: "GET",
  path: "/api/sandboxes",
  name: "listSandboxes",
  summary: "List the newest sandboxes, by default 100 of those that run",
  access: "key",
  query: ListQuery,
  status: 200,
  reply: z.array(SandboxReply),
};

const SessionsQuery = PageQuery.extend({
  status: z
    .enum(["running", "hibernated", "error", "stopped"], "status must be running, hibernated, error or stopped")
    .optional()
    .meta({ description: "Default: every status." }),
});
type SessionsQuery = z.infer<typeof SessionsQuery>;

export const listPastSandboxes: Route<unknown, SessionsQuery, SandboxReply[]> = {
  method: "GET",
  path: "/api/sessions",
  name: "listPastSandboxes",
  summary: "List sandboxes of every status, newest first, also those that have ended",
  description: "Sandboxes that ended more than OPENSANDBOX_RETENTION_DAYS ago are gone.",
  access: "key",
  query: SessionsQuery,
  status: 200,
  reply: z.array(SandboxReply),
};

export const getSandbox: Route<unknown, unknown, SandboxReply> = {
  method: "GET",
  path: "/api/sandboxes/:id",
  name: "getSandbox",
  summary: "Get a sandbox in any state",
  access: "key",
  status: 200,
  reply: SandboxReply,
};

const DeleteQuery = z.object({
  deleteSecretStore: z
    .enum(["true", "false"], "deleteSecretStore must be true or false")
    .optional()
    .meta({ description: "Delete its secret store as well. Needs the scope secrets:write. Default: false." }),
});
type DeleteQuery = z.infer<typeof DeleteQuery>;

export const deleteSandbox: Route<unknown, DeleteQuery> = {
  method: "DELETE",
  path: "/api/sandboxes/:id",
  name: "deleteSandbox",
  summary: "Stop a sandbox and remove its machine, disks and snapshot",
  access: "key",
  query: DeleteQuery,
  status: 204,
};

export const SetTimeoutBody = z
  .object({ timeout: timeoutSeconds("timeout is required: idle seconds, or 0 for never") })
  .meta({ id: "SetTimeout" });

export const setIdleTimeout: Route<{ timeout: number }> = {
  method: "POST",
  path: "/api/sandboxes/:id/timeout",
  name: "setIdleTimeout",
  summary: "Set and restart the idle timeout",
  access: "key",
  body: SetTimeoutBody,
  status: 204,
};

/** The life of a sandbox's token in seconds, unless the call names another. */
export const defaultSandboxTokenSeconds = 3600;

const tokenRule = "expires_in must be a whole number of seconds from 1 to 86400";

const RefreshTokenBody = z
  .object({
    expires_in: z
      .int(tokenRule)
      .min(1, tokenRule)
      .max(86_400, tokenRule)
      .optional()
      .meta({
        description: `Seconds. Default: ${defaultSandboxTokenSeconds}.`,
      }),
  })
  .meta({ id: "RefreshSandboxToken" });
type RefreshTokenBody = z.infer<typeof RefreshTokenBody>;

const SandboxTokenReply = z
  .object({ token: z.string(), expires_in: z.int(), sandboxID: z.string() })
  .meta({ id: "SandboxToken" });
type SandboxTokenReply = z.infer<typeof SandboxTokenReply>;

export const refreshSandboxToken: Route<RefreshTokenBody, unknown, SandboxTokenReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/token/refresh",
  name: "refreshSandboxToken",
  summary: "Get a token for one sandbox",
  description:
    "The token is sent in place of a key, has the key's scope for sandboxes, and is refused by every route that is not one " +
    "of this sandbox. It ends with the key's revocation. An earlier token stays valid until its end.",
  access: "key",
  body: RefreshTokenBody,
  status: 200,
  reply: SandboxTokenReply,
};

/** Translates a request into the project's own terms. Absent properties: the server's or the image's defaults. */
export function newSandboxFrom(body: CreateSandboxBody) {
  refuseUnimplemented(body);
  const asked = {
    ...(body.cpuCount === undefined ? {} : { vcpus: body.cpuCount }),
    ...(body.memoryMB === undefined ? {} : { memoryMib: body.memoryMB }),
    ...(body.diskMB === undefined ? {} : { workspaceMib: body.diskMB }),
    ...(body.timeout === undefined ? {} : { idleTimeoutSeconds: body.timeout }),
    ...(body.onTimeout === undefined ? {} : { onTimeout: body.onTimeout }),
    ...(body.maxLifetime === undefined ? {} : { maxLifetimeSeconds: body.maxLifetime }),
    ...(body.networkEnabled === undefined ? {} : { networkEnabled: body.networkEnabled }),
    ...(body.egress === undefined ? {} : { egress: egressFrom(body.egress) }),
    ...(body.port === undefined ? {} : { forwardedPort: body.port }),
    envs: body.envs ?? {},
    metadata: body.metadata ?? {},
    alias: body.alias ?? "",
    ephemeral: body.ephemeral ?? false,
  };
  if (body.image !== undefined) return { kind: "from image", image: { manifest: body.image }, fork: asked } as const;
  if ((body.snapshot ?? "") !== "") {
    return { kind: "from image", image: { name: body.snapshot ?? "" }, fork: asked } as const;
  }
  return { kind: "new", sandbox: { networkEnabled: true, ...asked, image: imageOf(body.templateID ?? "") } } as const;
}

/** The names under which older clients ask for the default image, which has Python and Node.js. */
const otherNamesOfDefault: readonly string[] = ["", "base", "python", "node"];

/** The name of a template is that of an image, except for other names of the default one. */
function imageOf(templateID: string): string {
  return otherNamesOfDefault.includes(templateID) ? "default" : templateID;
}

function refuseUnimplemented(body: CreateSandboxBody): void {
  const asked = Object.entries({
    "webhooks of a sandbox (webhooks)": (body.webhooks ?? []).length > 0,
  }).find(([, present]) => present);
  if (asked !== undefined) throw new SandboxError("not_supported", `${asked[0]} is not implemented`);
}

/** The properties of a sandbox that clients may see. */
interface SandboxToShow {
  readonly id: string;
  readonly state: keyof typeof statusOfState;
  readonly image: string;
  readonly alias: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
  readonly idleTimeoutSeconds: number;
  readonly workerId: string;
  readonly networkEnabled: boolean;
  readonly egress?: EgressRules | undefined;
  readonly hostPort?: number | undefined;
  readonly createdAt: Date;
  readonly startedAt?: Date | undefined;
  readonly expiresAt?: Date | undefined;
  readonly deleteAt?: Date | undefined;
  readonly onTimeout?: "hibernate" | "kill" | undefined;
  readonly endedAt?: Date | undefined;
  readonly endReason?: string | undefined;
  readonly restoredFrom?: "memory" | "disk" | undefined;
  readonly restoredBecause?: string | undefined;
  readonly recoveredFrom?: string | undefined;
  readonly fromCheckpointId?: string | undefined;
  readonly patchError?: string | undefined;
  readonly tags: Readonly<Record<string, string>>;
  readonly tagsUpdatedAt?: Date | undefined;
}

// The public API has no transitional states. A restarting sandbox shows as running, since calls wait for it.
const statusOfState = {
  creating: "creating",
  running: "running",
  hibernating: "hibernated",
  hibernated: "hibernated",
  waking: "hibernated",
  restarting: "running",
  stopping: "stopped",
  stopped: "stopped",
  error: "error",
} as const;

/** The state of a sandbox as clients see it. */
export function publicStatus(state: keyof typeof statusOfState): (typeof statusOfState)[keyof typeof statusOfState] {
  return statusOfState[state];
}

/** The properties that all sandboxes of a server share. */
export interface SandboxPlace {
  readonly region: string;
  readonly sandboxDomain: string;
  readonly hypervisor?: HypervisorName | undefined;
  /** The parts of network policies that this host cannot enforce. */
  readonly networkNotEnforced?: readonly string[] | undefined;
}

export function sandboxReplyOf(sandbox: SandboxToShow, place: SandboxPlace): SandboxReply {
  return {
    sandboxID: sandbox.id,
    status: publicStatus(sandbox.state),
    templateID: sandbox.image,
    template: sandbox.image,
    alias: sandbox.alias,
    metadata: { ...sandbox.metadata },
    cpuCount: sandbox.vcpus,
    memoryMB: sandbox.memoryMib,
    diskMB: sandbox.workspaceMib,
    timeout: sandbox.idleTimeoutSeconds,
    region: place.region,
    workerID: sandbox.workerId,
    sandboxDomain: place.sandboxDomain,
    token: "",
    networkEnabled: sandbox.networkEnabled,
    createdAt: sandbox.createdAt.toISOString(),
    ...present({
      startedAt: sandbox.startedAt?.toISOString(),
      endAt: sandbox.expiresAt?.toISOString(),
      onTimeout: sandbox.onTimeout,
      deleteAt: sandbox.deleteAt?.toISOString(),
      stoppedAt: sandbox.endedAt?.toISOString(),
      reason: sandbox.endReason,
      restoredFrom: sandbox.restoredFrom,
      restoredBecause: sandbox.restoredBecause,
      recoveredFrom: sandbox.recoveredFrom,
      fromCheckpointId: sandbox.fromCheckpointId,
      patchError: sandbox.patchError,
      egress: sandbox.egress && writableEgress(sandbox.egress),
      hostPort: sandbox.hostPort,
      hypervisor: place.hypervisor,
      networkNotEnforced: place.networkNotEnforced && [...place.networkNotEnforced],
    }),
    tags: { ...sandbox.tags },
    tagsLastUpdatedAt: sandbox.tagsUpdatedAt?.toISOString() ?? null,
  };
}

/** The states that a list request selects. */
export function statesFrom({ status = "running" }: Pick<ListQuery, "status">): readonly (keyof typeof statusOfState)[] {
  const states = Object.keys(statusOfState) as (keyof typeof statusOfState)[];
  if (status === "running") return ["running"];
  return states.filter((state) => (status === "all" ? state !== "stopped" : statusOfState[state] === status));
}

/** The states that a list of past sandboxes selects. */
export function pastStatesFrom({ status }: Pick<SessionsQuery, "status">): readonly (keyof typeof statusOfState)[] {
  if (status !== undefined) return statesFrom({ status });
  return Object.keys(statusOfState) as (keyof typeof statusOfState)[];
}

/** Translates what a list selects besides states. */
export function selectionFrom({ alias, tag }: Pick<PageQuery, "alias" | "tag">): {
  readonly alias?: string;
  readonly tag?: { readonly key: string; readonly value?: string };
} {
  const [key = "", ...value] = (tag ?? "").split("=");
  return {
    ...(alias === undefined ? {} : { alias }),
    ...(tag === undefined ? {} : { tag: value.length === 0 ? { key } : { key, value: value.join("=") } }),
  };
}

/** The object without its undefined properties. */
function present<T extends object>(values: T): { [Name in keyof T]?: Exclude<T[Name], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [Name in keyof T]?: Exclude<T[Name], undefined>;
  };
}
