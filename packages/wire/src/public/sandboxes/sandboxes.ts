import { z } from "zod";
import type { EgressRules } from "../../egress.ts";
import { SandboxError } from "../../errors.ts";
import type { Route } from "../../route.ts";
import { envs } from "../fields.ts";
import { ImageManifest, manifestBodyLimit } from "../images.ts";
import { memoryMb } from "./memory.ts";
import { Egress, egressFrom, writableEgress } from "./network.ts";
import { port, PreviewAuth } from "#public/guests/previews.ts";

const negativeTimeout = "timeout must be non-negative (0 disables auto-hibernate)";
// Of a signed 32-bit number of seconds: 68 years.
const maxTimeoutSeconds = 2_147_483_647;

export function timeoutSeconds(absent: string): z.ZodType<number> {
  return z
    .number({ error: (issue) => (issue.input === undefined ? absent : "timeout must be a whole number of seconds") })
    .nonnegative(negativeTimeout)
    .int("timeout must be a whole number of seconds")
    .max(maxTimeoutSeconds, `timeout must be at most ${maxTimeoutSeconds}`)
    .meta({ description: "Idle seconds until the sandbox is put away; every use begins them anew. 0: never." });
}

const cpuRule = "cpuCount must be a whole number from 1 to 16";
const diskRule = "diskMB must be a whole number";

export const CreateSandboxBody = z
  .object({
    templateID: z
      .string()
      .optional()
      .meta({ description: 'What to start from. Absent, "", "base": the default image.' }),
    timeout: timeoutSeconds("timeout must be a whole number of seconds").optional(),
    envs: envs.optional(),
    metadata: z.record(z.string(), z.string()).optional().meta({ description: "Labels of yours; kept, not used." }),
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
    port: port.optional().meta({ description: "A port of the guest that hostPort of this server is to lead to." }),
    ephemeral: z
      .boolean()
      .optional()
      .meta({ description: "Delete it where it would be hibernated: when it is idle, and when the server ends." }),
    image: ImageManifest.optional().meta({ description: "What to build and start from, in place of templateID." }),
    snapshot: z
      .string()
      .optional()
      .meta({ description: "The name of an image to start from, in place of templateID." }),
    secretStore: z.string().optional().meta({ description: "Not there yet." }),
    previewAuth: PreviewAuth.optional(),
    webhooks: z.array(z.unknown()).optional().meta({ description: "Not there yet." }),
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
    token: z.string().meta({ description: "Empty: every call goes to this server." }),
    networkEnabled: z.boolean(),
    egress: Egress.optional(),
    networkNotEnforced: z
      .array(z.string())
      .optional()
      .meta({ description: "What of its network policy does not hold on this host, in words." }),
    hostPort: z.int().optional().meta({ description: "A port of this server that leads to the port asked for." }),
    previewAuthToken: z
      .string()
      .optional()
      .meta({ description: "What its previews need. Told by the create that asked for it, and never again." }),
    createdAt: z.iso.datetime(),
    startedAt: z.iso.datetime().optional(),
    endAt: z.iso.datetime().optional().meta({ description: "When the idle timeout ends if nothing happens." }),
    stoppedAt: z.iso.datetime().optional(),
    reason: z.string().optional().meta({ description: "Why it does not run, or could not be woken." }),
    restoredFrom: z
      .enum(["memory", "disk"])
      .optional()
      .meta({ description: "How it was started last: its memory as it was, or booted from its disks." }),
    restoredBecause: z.string().optional().meta({ description: "Why its memory was not restored." }),
    fromCheckpointId: z.string().optional().meta({ description: "The checkpoint it was forked from." }),
    patchError: z.string().optional().meta({ description: "Which patch of that checkpoint failed, and how." }),
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
    "Answers when a command would work. With `Accept: text/event-stream` progress is told as events `build_log` " +
    "(`{step, type, message}`) and the end as `result` (a Sandbox) or `error` (`{error}`). With an `Idempotency-Key` " +
    "header the same key gives the same sandbox for 24 hours.",
  access: "key",
  body: CreateSandboxBody,
  bodyLimit: manifestBodyLimit,
  status: 201,
  reply: SandboxReply,
  otherReplies: { 200: { description: "Events, where they were asked for; or the sandbox of a repeated key." } },
};

const ListQuery = z.object({
  status: z
    .enum(
      ["running", "hibernated", "error", "stopped", "all"],
      "status must be running, hibernated, error, stopped or all",
    )
    .optional()
    .meta({ description: "Default: running. `all`: every one that is not stopped." }),
});
type ListQuery = z.infer<typeof ListQuery>;

export const listSandboxes: Route<unknown, ListQuery, SandboxReply[]> = {
  method: "GET",
  path: "/api/sandboxes",
  name: "listSandboxes",
  summary: "List sandboxes, those that run unless asked otherwise, the newest 100",
  access: "key",
  query: ListQuery,
  status: 200,
  reply: z.array(SandboxReply),
};

export const getSandbox: Route<unknown, unknown, SandboxReply> = {
  method: "GET",
  path: "/api/sandboxes/:id",
  name: "getSandbox",
  summary: "Get a sandbox, whether it runs or not",
  access: "key",
  status: 200,
  reply: SandboxReply,
};

export const deleteSandbox: Route = {
  method: "DELETE",
  path: "/api/sandboxes/:id",
  name: "deleteSandbox",
  summary: "Stop a sandbox and remove all that belongs to it",
  access: "key",
  status: 204,
};

export const SetTimeoutBody = z
  .object({ timeout: timeoutSeconds("timeout is required: idle seconds, or 0 for never") })
  .meta({ id: "SetTimeout" });

export const setIdleTimeout: Route<{ timeout: number }> = {
  method: "POST",
  path: "/api/sandboxes/:id/timeout",
  name: "setIdleTimeout",
  summary: "Set the idle timeout and begin it anew",
  access: "key",
  body: SetTimeoutBody,
  status: 204,
};

/** What a client asks for, in the project's own words. Absent: the server's default, or what its image has. */
export function newSandboxFrom(body: CreateSandboxBody) {
  refuseWhatIsNotThereYet(body);
  const asked = {
    ...(body.cpuCount === undefined ? {} : { vcpus: body.cpuCount }),
    ...(body.memoryMB === undefined ? {} : { memoryMib: body.memoryMB }),
    ...(body.diskMB === undefined ? {} : { workspaceMib: body.diskMB }),
    ...(body.timeout === undefined ? {} : { idleTimeoutSeconds: body.timeout }),
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

/** `""`, `base` and `default` all name the default image; any other template is an image of the same name. */
function imageOf(templateID: string): string {
  return templateID === "" || templateID === "base" ? "default" : templateID;
}

function refuseWhatIsNotThereYet(body: CreateSandboxBody): void {
  const asked = Object.entries({
    "a secret store (secretStore)": (body.secretStore ?? "") !== "",
    "webhooks of a sandbox (webhooks)": (body.webhooks ?? []).length > 0,
  }).find(([, present]) => present);
  if (asked !== undefined) throw new SandboxError("not_supported", `${asked[0]} is not there yet`);
}

/** What the control plane knows of a sandbox, as far as a client may see it. */
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
  readonly endedAt?: Date | undefined;
  readonly endReason?: string | undefined;
  readonly restoredFrom?: "memory" | "disk" | undefined;
  readonly restoredBecause?: string | undefined;
  readonly fromCheckpointId?: string | undefined;
  readonly patchError?: string | undefined;
  readonly tags: Readonly<Record<string, string>>;
  readonly tagsUpdatedAt?: Date | undefined;
}

// The published words know no state on the way to another. One that is given another machine runs: calls wait for it.
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

/** What is the same for all sandboxes of a server. */
export interface SandboxPlace {
  readonly region: string;
  readonly sandboxDomain: string;
  /** What of network policies does not hold on this host. */
  readonly networkNotEnforced?: readonly string[] | undefined;
}

export function sandboxReplyOf(sandbox: SandboxToShow, place: SandboxPlace): SandboxReply {
  return {
    sandboxID: sandbox.id,
    status: statusOfState[sandbox.state],
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
      stoppedAt: sandbox.endedAt?.toISOString(),
      reason: sandbox.endReason,
      restoredFrom: sandbox.restoredFrom,
      restoredBecause: sandbox.restoredBecause,
      fromCheckpointId: sandbox.fromCheckpointId,
      patchError: sandbox.patchError,
      egress: sandbox.egress && writableEgress(sandbox.egress),
      hostPort: sandbox.hostPort,
      networkNotEnforced: place.networkNotEnforced && [...place.networkNotEnforced],
    }),
    tags: { ...sandbox.tags },
    tagsLastUpdatedAt: sandbox.tagsUpdatedAt?.toISOString() ?? null,
  };
}

/** The states that a list is asked for. */
export function statesFrom({ status = "running" }: ListQuery): readonly (keyof typeof statusOfState)[] {
  const states = Object.keys(statusOfState) as (keyof typeof statusOfState)[];
  if (status === "running") return ["running"];
  return states.filter((state) => (status === "all" ? state !== "stopped" : statusOfState[state] === status));
}

/** Without what is undefined. */
function present<T extends object>(values: T): { [Name in keyof T]?: Exclude<T[Name], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [Name in keyof T]?: Exclude<T[Name], undefined>;
  };
}
