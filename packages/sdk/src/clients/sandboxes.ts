import { SandboxError } from "@opensandbox/wire/errors.ts";
import { getConsole, getReadyMachines } from "@opensandbox/wire/public/sandboxes/host.ts";
import { writableEgress } from "@opensandbox/wire/public/sandboxes/network.ts";
import {
  hibernateSandbox,
  powerCycleSandbox,
  rebootSandbox,
  wakeSandbox,
} from "@opensandbox/wire/public/sandboxes/lifecycle.ts";
import { scaleSandbox } from "@opensandbox/wire/public/sandboxes/scaling.ts";
import {
  createSandbox,
  deleteSandbox,
  getSandbox,
  listSandboxes,
  setIdleTimeout,
} from "@opensandbox/wire/public/sandboxes/sandboxes.ts";
import type { CreateSandboxBody, SandboxReply } from "@opensandbox/wire/public/sandboxes/sandboxes.ts";
import { readEvents } from "#transport/events.ts";
import { errorFromReply, replyOf } from "#transport/http.ts";
import type { HttpClient } from "#transport/http.ts";
import type { Egress } from "./network.ts";

export interface CreateSandbox {
  readonly image?: string;
  /** An image that was built by steps, by its name; instead of `image`. */
  readonly snapshot?: string;
  readonly vcpus?: number;
  readonly memoryMib?: number;
  /** Size of the workspace. */
  readonly diskMib?: number;
  readonly envs?: Readonly<Record<string, string>>;
  readonly metadata?: Readonly<Record<string, string>>;
  /** Seconds without activity after which the sandbox is put away; 0: never. */
  readonly idleTimeoutSeconds?: number;
  /** Deleted where it would be hibernated: when it is idle, and when the server ends. */
  readonly ephemeral?: boolean;
  readonly networkEnabled?: boolean;
  /** What it may reach. */
  readonly egress?: Egress;
  /** A port of it that `hostPort` of the server is to lead to. */
  readonly port?: number;
  /** What its previews need, at least 16 characters; `auto`: the server makes one. */
  readonly previewToken?: string;
  /** A name of yours. */
  readonly alias?: string;
}

export interface SandboxInfo {
  readonly id: string;
  readonly status: "creating" | "running" | "hibernated" | "stopped" | "error";
  /** Empty where it was given none. */
  readonly alias: string;
  readonly image: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  /** 0: never. */
  readonly idleTimeoutSeconds: number;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAt: string;
  readonly startedAt?: string;
  /** When the idle timeout ends if nothing happens. */
  readonly expiresAt?: string;
  readonly stoppedAt?: string;
  /** Why it does not run any more. */
  readonly reason?: string;
  /** What it was last started from. `disk`: its memory could not be restored, and `restoredBecause` says why. */
  readonly restoredFrom?: "memory" | "disk";
  readonly restoredBecause?: string;
  /** A port of the server that leads to the one that was asked for. */
  readonly hostPort?: number;
  /** What its previews need. Told by the call that asked for it, and never again. */
  readonly previewToken?: string;
}

export interface ListOptions {
  /** Default: those that run. `all`: every one that is not stopped. */
  readonly status?: "running" | "hibernated" | "error" | "stopped" | "all";
}

export interface CreateOptions {
  /** Hears of what takes longer than a moment, such as building an image. */
  readonly onProgress?: (step: string) => void;
}

/** Of the image and the shape that was asked for last, which are absent where none was. */
export interface ReadyMachines {
  /** How many are kept. */
  readonly wanted: number;
  /** How many wait at the moment. */
  readonly ready: number;
  readonly image?: string;
  readonly memoryMib?: number;
  readonly vcpus?: number;
}

export interface SandboxesClient {
  /** Resolves when a command would work in it. Made again after a failed connection, it makes one sandbox all the same. */
  create(request: CreateSandbox, options?: CreateOptions, signal?: AbortSignal): Promise<SandboxInfo>;
  /** A killed sandbox is still known, as `stopped`. */
  get(id: string, signal?: AbortSignal): Promise<SandboxInfo>;
  /** The newest 100. */
  list(options?: ListOptions, signal?: AbortSignal): Promise<readonly SandboxInfo[]>;
  /** Saves it with its memory and its processes, and frees what it takes of the host. Any use of it wakes it. */
  hibernate(id: string, signal?: AbortSignal): Promise<{ readonly sizeBytes: number }>;
  /** Without a timeout, in seconds, it keeps the idle timeout that it had. */
  wake(id: string, options?: { readonly idleTimeoutSeconds?: number }, signal?: AbortSignal): Promise<SandboxInfo>;
  /** Gives it more memory while it runs, or takes some back. `wrong_state` when its commands need what it would give. */
  scale(id: string, memoryMib: number, signal?: AbortSignal): Promise<void>;
  /** Starts the guest's kernel again; what is on the disks stays. */
  reboot(id: string, signal?: AbortSignal): Promise<void>;
  /** Boots the disks with a new machine, also when the old one has ended by itself. */
  powerCycle(id: string, signal?: AbortSignal): Promise<void>;
  kill(id: string, signal?: AbortSignal): Promise<void>;
  /** What its machine has written to its console, as far as it is kept. Of one that sleeps there is none. */
  console(id: string, signal?: AbortSignal): Promise<string>;
  /** Machines that wait to become a sandbox. */
  pool(signal?: AbortSignal): Promise<ReadyMachines>;
  /** Sets the idle timeout, in seconds, and begins it anew. 0: never. */
  setTimeout(id: string, seconds: number, signal?: AbortSignal): Promise<void>;
}

export function sandboxesClient(http: HttpClient): SandboxesClient {
  return {
    async create(request, { onProgress } = {}, signal) {
      const headers = onProgress === undefined ? undefined : { Accept: "text/event-stream" };
      const options = { body: createBody(request), ...(headers === undefined ? {} : { headers }), idempotent: true };
      const response = await http.send(createSandbox, options, signal);
      return sandboxOf(await createdSandbox(response, onProgress, signal));
    },
    async get(id, signal) {
      return sandboxOf(await http.call(getSandbox, { parameters: { id } }, signal));
    },
    async list({ status } = {}, signal) {
      const query = status === undefined ? {} : { status };
      return (await http.call(listSandboxes, { query }, signal)).map(sandboxOf);
    },
    async hibernate(id, signal) {
      const { sizeBytes } = await http.call(hibernateSandbox, { parameters: { id } }, signal);
      return { sizeBytes };
    },
    async wake(id, { idleTimeoutSeconds } = {}, signal) {
      const body = idleTimeoutSeconds === undefined ? {} : { timeout: idleTimeoutSeconds };
      return sandboxOf(await http.call(wakeSandbox, { parameters: { id }, body }, signal));
    },
    async scale(id, memoryMib, signal) {
      await http.call(scaleSandbox, { parameters: { id }, body: { memoryMB: memoryMib } }, signal);
    },
    async reboot(id, signal) {
      await http.call(rebootSandbox, { parameters: { id } }, signal);
    },
    async powerCycle(id, signal) {
      await http.call(powerCycleSandbox, { parameters: { id } }, signal);
    },
    async kill(id, signal) {
      await http.call(deleteSandbox, { parameters: { id } }, signal);
    },
    async console(id, signal) {
      return await http.text(getConsole, { parameters: { id } }, signal);
    },
    async pool(signal) {
      const { wanted, ready, image, memoryMB, cpuCount } = await http.call(getReadyMachines, {}, signal);
      return {
        ...{ wanted, ready },
        ...(image === undefined ? {} : { image }),
        ...(memoryMB === undefined ? {} : { memoryMib: memoryMB }),
        ...(cpuCount === undefined ? {} : { vcpus: cpuCount }),
      };
    },
    async setTimeout(id, seconds, signal) {
      await http.call(setIdleTimeout, { parameters: { id }, body: { timeout: seconds } }, signal);
    },
  };
}

/** A server that knows nothing to tell answers without events. */
async function createdSandbox(
  response: Response,
  onProgress: CreateOptions["onProgress"],
  signal: AbortSignal | undefined,
): Promise<SandboxReply> {
  for await (const { event, data } of readEvents(response, signal)) {
    if (event === "result") return replyOf(createSandbox, data);
    if (event === "error") throw errorFromReply(500, data);
    if (event === "build_log") onProgress?.(messageOf(data));
  }
  throw new SandboxError("unavailable", "the connection ended before the sandbox was created");
}

function messageOf(data: string): string {
  const log: unknown = JSON.parse(data);
  return typeof log === "object" && log !== null && "message" in log ? String(log.message) : data;
}

/** The published words of the wire are those of clients that exist. */
function createBody(request: CreateSandbox): CreateSandboxBody {
  return {
    ...(request.image === undefined ? {} : { templateID: request.image }),
    ...(request.snapshot === undefined ? {} : { snapshot: request.snapshot }),
    ...(request.vcpus === undefined ? {} : { cpuCount: request.vcpus }),
    ...(request.memoryMib === undefined ? {} : { memoryMB: request.memoryMib }),
    ...(request.diskMib === undefined ? {} : { diskMB: request.diskMib }),
    ...(request.envs === undefined ? {} : { envs: { ...request.envs } }),
    ...(request.metadata === undefined ? {} : { metadata: { ...request.metadata } }),
    ...(request.idleTimeoutSeconds === undefined ? {} : { timeout: request.idleTimeoutSeconds }),
    ...(request.ephemeral === undefined ? {} : { ephemeral: request.ephemeral }),
    ...reachBody(request),
    ...(request.alias === undefined ? {} : { alias: request.alias }),
  };
}

/** What a sandbox may reach, and by what it is reached. */
export function reachBody({
  networkEnabled,
  egress,
  port,
  previewToken,
}: Pick<CreateSandbox, "networkEnabled" | "egress" | "port" | "previewToken">): CreateSandboxBody {
  return {
    ...(networkEnabled === undefined ? {} : { networkEnabled }),
    ...(egress === undefined ? {} : { egress: writableEgress(egress) }),
    ...(port === undefined ? {} : { port }),
    ...(previewToken === undefined ? {} : { previewAuth: { scheme: "bearer", token: previewToken } }),
  };
}

export function sandboxOf(reply: SandboxReply): SandboxInfo {
  return {
    id: reply.sandboxID,
    status: reply.status,
    alias: reply.alias,
    image: reply.template,
    vcpus: reply.cpuCount,
    memoryMib: reply.memoryMB,
    diskMib: reply.diskMB,
    idleTimeoutSeconds: reply.timeout,
    metadata: reply.metadata,
    createdAt: reply.createdAt,
    ...(reply.startedAt === undefined ? {} : { startedAt: reply.startedAt }),
    ...(reply.endAt === undefined ? {} : { expiresAt: reply.endAt }),
    ...(reply.stoppedAt === undefined ? {} : { stoppedAt: reply.stoppedAt }),
    ...(reply.reason === undefined ? {} : { reason: reply.reason }),
    ...(reply.restoredFrom === undefined ? {} : { restoredFrom: reply.restoredFrom }),
    ...(reply.restoredBecause === undefined ? {} : { restoredBecause: reply.restoredBecause }),
    ...(reply.hostPort === undefined ? {} : { hostPort: reply.hostPort }),
    ...(reply.previewAuthToken === undefined ? {} : { previewToken: reply.previewAuthToken }),
  };
}
