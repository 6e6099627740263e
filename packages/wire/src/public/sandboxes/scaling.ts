import { z } from "zod";
import type { Route } from "../../route.ts";
import { memoryField } from "./memory.ts";

const sizeMissing = "memoryMB is required and must be positive";
const sizeRule = "memoryMB must be a multiple of 128 from 256 to 65536";

const memorySize = z
  .number(sizeMissing)
  .positive(sizeMissing)
  .multipleOf(128, sizeRule)
  .min(256, sizeRule)
  .max(65_536, sizeRule);

const cpuRule = "cpuPercent must be a whole number from 100 to 1600";
const pidsRule = "maxPids must be a whole number from 16 to 32768";

const cpuPercent = z
  .int(cpuRule)
  .min(100, cpuRule)
  .max(1600, cpuRule)
  .optional()
  .meta({ description: "Limit of processor time, in percent of one processor. Absent: unchanged." });

const ScaleBody = z.object({ memoryMB: memorySize, cpuPercent }).meta({ id: "Scale" });

const LimitsBody = z
  .object({
    memoryMB: memorySize,
    cpuPercent,
    maxPids: z
      .int(pidsRule)
      .min(16, pidsRule)
      .max(32_768, pidsRule)
      .optional()
      .meta({ description: "Limit of processes and threads. Absent: unchanged." }),
  })
  .meta({ id: "Limits" });

/** The body of a request that changes the size. */
export interface Size {
  readonly memoryMB: number;
  readonly cpuPercent?: number | undefined;
  readonly maxPids?: number | undefined;
}

/** Translates a request into the project's own terms. */
export function sizeFrom({ memoryMB, cpuPercent, maxPids }: Size) {
  return { memoryMib: memoryMB, cpuPercent, maxPids };
}

/** The refusal for a sandbox with a locked size. The published client recognises its code. */
const ScalingLocked = z.object({ error: z.string(), code: z.literal("scaling_locked") }).meta({ id: "ScalingLocked" });

export const scalingLocked: z.infer<typeof ScalingLocked> = {
  error: "scaling is locked on this sandbox: unlock it first",
  code: "scaling_locked",
};

const locked = { 403: { description: "The sandbox's size is locked.", reply: ScalingLocked } };

const OomFloor = z.object({ error: z.string(), code: z.literal("oom_floor") }).meta({ id: "OomFloor" });

/** The refusal of a size that is too small for the sandbox's processes. Clients recognise its code. */
function oomFloor(memoryMb: number, because: string): z.infer<typeof OomFloor> {
  const error = `${memoryMb} MiB are too little for this sandbox: ${because}. End some of its processes, or choose more memory`;
  return { error, code: "oom_floor" };
}

const floor = { 409: { description: "Its processes need more memory; nothing has changed.", reply: OomFloor } };

const ScaledReply = z
  .object({
    sandboxID: z.string(),
    memoryMB: z.int(),
    cpuPercent: z.number(),
    ok: z.literal(true),
    autoscaleDisabled: z.boolean().optional().meta({ description: "Autoscale was on and is now disabled." }),
  })
  .meta({ id: "Scaled" });
type ScaledReply = z.infer<typeof ScaledReply>;

/** The outcome of a resize. */
export type ScaleOutcome =
  | {
      readonly kind: "scaled";
      readonly sandbox: {
        readonly id: string;
        readonly vcpus: number;
        readonly memoryMib: number;
        readonly cpuPercent?: number | undefined;
      };
      readonly autoscaleEnded: boolean;
    }
  | { readonly kind: "locked" }
  /** The sandbox's processes need more memory. */
  | { readonly kind: "floor"; readonly memoryMib: number; readonly because: string };

export function scaleAnswer(
  outcome: ScaleOutcome,
): { readonly status: 200; readonly body: ScaledReply } | { readonly status: 403 | 409; readonly body: object } {
  switch (outcome.kind) {
    case "locked":
      return { status: 403, body: scalingLocked };
    case "floor":
      return { status: 409, body: oomFloor(outcome.memoryMib, outcome.because) };
    case "scaled": {
      const { id, vcpus, memoryMib, cpuPercent = vcpus * 100 } = outcome.sandbox;
      const size = { sandboxID: id, memoryMB: memoryMib, cpuPercent, ok: true } as const;
      return { status: 200, body: { ...size, ...(outcome.autoscaleEnded ? { autoscaleDisabled: true } : {}) } };
    }
  }
}

export const scaleSandbox: Route<z.infer<typeof ScaleBody>, unknown, ScaledReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/scale",
  name: "scaleSandbox",
  summary: "Change the memory and processor time of a running sandbox",
  access: "key",
  body: ScaleBody,
  status: 200,
  reply: ScaledReply,
  otherReplies: { ...locked, ...floor },
};

export const setLimits: Route<z.infer<typeof LimitsBody>, unknown, ScaledReply> = {
  method: "PUT",
  path: "/api/sandboxes/:id/limits",
  name: "setLimits",
  summary: "Change the memory, processor time and processes of a running sandbox",
  access: "key",
  body: LimitsBody,
  status: 200,
  reply: ScaledReply,
  otherReplies: { ...locked, ...floor },
};

const AutoscaleBody = z
  .object({
    enabled: z.boolean("enabled is required"),
    minMemoryMB: memoryField("minMemoryMB").optional(),
    maxMemoryMB: memoryField("maxMemoryMB").optional(),
  })
  .refine(
    ({ minMemoryMB = 0, maxMemoryMB = Number.POSITIVE_INFINITY }) => minMemoryMB <= maxMemoryMB,
    "minMemoryMB must not be more than maxMemoryMB",
  )
  .meta({ id: "SetAutoscale" });
type AutoscaleBody = z.infer<typeof AutoscaleBody>;

const AutoscaleReply = z
  .object({
    sandboxID: z.string(),
    enabled: z.boolean(),
    minMemoryMB: z.int(),
    maxMemoryMB: z.int(),
    effective: z
      .boolean()
      .meta({ description: "Whether this server acts on it. Earlier servers store the range alone." }),
  })
  .meta({ id: "Autoscale" });
type AutoscaleReply = z.infer<typeof AutoscaleReply>;

export const setAutoscale: Route<AutoscaleBody, unknown, AutoscaleReply> = {
  method: "PUT",
  path: "/api/sandboxes/:id/autoscale",
  name: "setAutoscale",
  summary: "Let the load of a sandbox set its memory, within a range",
  description:
    "A running sandbox gets half as much memory again when its commands use 85 % of it, or wait for memory in 10 % of the " +
    "time. It gives memory back when they have used less than 40 % for five minutes. A bound that is absent is the present " +
    "size; a size that was set by a call, and a lock, end it. Every change is an event, sandbox.scaled.",
  access: "key",
  body: AutoscaleBody,
  status: 200,
  reply: AutoscaleReply,
  otherReplies: locked,
};

export const getAutoscale: Route<unknown, unknown, AutoscaleReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/autoscale",
  name: "getAutoscale",
  summary: "Get the range of memory for autoscale",
  access: "key",
  status: 200,
  reply: AutoscaleReply,
};

const ScalingLockBody = z.object({ locked: z.boolean("locked is required") }).meta({ id: "SetScalingLock" });
const ScalingLockReply = z.object({ sandboxID: z.string(), locked: z.boolean() }).meta({ id: "ScalingLock" });
type ScalingLockReply = z.infer<typeof ScalingLockReply>;

export const setScalingLock: Route<{ locked: boolean }, unknown, ScalingLockReply> = {
  method: "PUT",
  path: "/api/sandboxes/:id/scaling-lock",
  name: "setScalingLock",
  summary: "Lock or unlock a sandbox's size; locking also disables autoscale",
  access: "key",
  body: ScalingLockBody,
  status: 200,
  reply: ScalingLockReply,
};

export const getScalingLock: Route<unknown, unknown, ScalingLockReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/scaling-lock",
  name: "getScalingLock",
  summary: "Get whether a sandbox's size is locked",
  access: "key",
  status: 200,
  reply: ScalingLockReply,
};

/** Translates a request into the project's own terms. */
export function autoscaleFrom({ enabled, minMemoryMB, maxMemoryMB }: AutoscaleBody) {
  return { enabled, minMemoryMib: minMemoryMB, maxMemoryMib: maxMemoryMB };
}

export function autoscaleReplyOf(sandbox: {
  readonly id: string;
  readonly memoryMib: number;
  readonly autoscale?:
    | {
        readonly enabled: boolean;
        readonly minMemoryMib?: number | undefined;
        readonly maxMemoryMib?: number | undefined;
      }
    | undefined;
}): AutoscaleReply {
  const { id, memoryMib, autoscale } = sandbox;
  return {
    sandboxID: id,
    enabled: autoscale?.enabled ?? false,
    minMemoryMB: autoscale?.minMemoryMib ?? memoryMib,
    maxMemoryMB: autoscale?.maxMemoryMib ?? memoryMib,
    effective: true,
  };
}
