import { SandboxError } from "@opensandbox/wire/errors.ts";
import { getConsole, getReadyMachines } from "@opensandbox/wire/public/sandboxes/host.ts";
import { writableEgress } from "@opensandbox/wire/public/sandboxes/network.ts";
import {
  hibernateSandbox,
  powerCycleSandbox,
  rebootSandbox,
  wakeSandbox,
} from "@opensandbox/wire/public/sandboxes/lifecycle.ts";
import { changeEnvironment } from "@opensandbox/wire/public/sandboxes/environment.ts";
import { scaleSandbox, setAutoscale } from "@opensandbox/wire/public/sandboxes/scaling.ts";
import {
  createSandbox,
  deleteSandbox,
  getSandbox,
  listPastSandboxes,
  listSandboxes,
  refreshSandboxToken,
  setIdleTimeout,
} from "@opensandbox/wire/public/sandboxes/sandboxes.ts";
import type { CreateSandboxBody, SandboxReply } from "@opensandbox/wire/public/sandboxes/sandboxes.ts";
import { readEvents } from "#transport/events.ts";
import { errorFromReply, replyOf } from "#transport/http.ts";
import type { HttpClient } from "#transport/http.ts";
import type { Egress } from "./network.ts";

export interface CreateSandbox {
  readonly image?: string;
  /** An image of your own, by name; instead of `image`. */
  readonly snapshot?: string;
  readonly vcpus?: number;
  readonly memoryMib?: number;
  /** Size of the workspace disk. */
  readonly diskMib?: number;
  readonly envs?: Readonly<Record<string, string>>;
  readonly metadata?: Readonly<Record<string, string>>;
  /** Seconds without activity until the sandbox is hibernated; 0: never. */
  readonly idleTimeoutSeconds?: number;
  /** Delete the sandbox instead of hibernating it, when it is idle and when the server exits. */
  readonly ephemeral?: boolean;
  readonly networkEnabled?: boolean;
  /** Destinations that the sandbox may reach. */
  readonly egress?: Egress;
  /** A port of the sandbox to publish as `hostPort` of the server. */
  readonly port?: number;
  /** The token that previews require, at least 16 characters. `auto`: the server generates one. */
  readonly previewToken?: string;
  /** The name of a secret store. The sandbox uses its secrets without seeing them. */
  readonly secretStore?: string;
  /** A name of your choice. */
  readonly alias?: string;
  /** What the idle timeout does. `kill` deletes the sandbox. Default: `hibernate`. */
  readonly onTimeout?: "hibernate" | "kill";
  /** Seconds after the create at which the sandbox is deleted, whatever it does. */
  readonly maxLifetimeSeconds?: number;
}

/** The memory that a sandbox may have, in MiB. A bound that is absent is the present size. */
export interface AutoscaleRange {
  readonly minMemoryMib?: number;
  readonly maxMemoryMib?: number;
}

export interface SandboxInfo {
  readonly id: string;
  readonly status: "creating" | "running" | "hibernated" | "stopped" | "error";
  /** Empty for a sandbox without an alias. */
  readonly alias: string;
  readonly image: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  /** The sandbox hibernates after this time without a call. 0: never. */
  readonly idleTimeoutSeconds: number;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAt: string;
  readonly startedAt?: string;
  /** When the idle timeout ends without further activity. */
  readonly expiresAt?: string;
  readonly stoppedAt?: string;
  /** What the idle timeout does. Absent: it hibernates the sandbox. */
  readonly onTimeout?: "hibernate" | "kill";
  /** When the sandbox is deleted, whatever it does. */
  readonly deleteAt?: string;
  /** Why the sandbox does not run. */
  readonly reason?: string;
  /** The source of the last start. `disk`: the memory could not be restored, for the reason in `restoredBecause`. */
  readonly restoredFrom?: "memory" | "disk";
  readonly restoredBecause?: string;
  /** The checkpoint that the sandbox was forked from. */
  readonly fromCheckpointId?: string;
  /** The port of the server that forwards to `port` of the sandbox. */
  readonly hostPort?: number;
  /** The token that previews require. Only the call that set it returns it. */
  readonly previewToken?: string;
}

export interface ListOptions {
  readonly alias?: string;
  /** `KEY=VALUE`, or `KEY` for any value of it. */
  readonly tag?: string;
  /** Default: `running`. `all`: every status except `stopped`. */
  readonly status?: "running" | "hibernated" | "error" | "stopped" | "all";
  /** Default: 100. At most 1000. */
  readonly limit?: number;
  /** The id of the last sandbox of the previous page, which may have stopped since. */
  readonly after?: string;
}

/** The selection of a list of past sandboxes. */
export interface PastOptions extends Omit<ListOptions, "status"> {
  /** Default: every status. */
  readonly status?: "running" | "hibernated" | "error" | "stopped";
}

export interface CreateOptions {
  /** Called with a description of each long step, such as building an image. */
  readonly onProgress?: (step: string) => void;
}

/** The pools of restored machines that wait for a create. */
export interface ReadyMachines {
  /** Machines that the server keeps ready. */
  readonly wanted: number;
  /** Machines that are ready now. */
  readonly ready: number;
  /** One for each template that sandboxes have used lately, those in higher demand first. */
  readonly templates: readonly ReadyTemplate[];
}

/** The ready machines of one image. A create brings them to its own shape. */
export interface ReadyTemplate {
  readonly image: string;
  readonly memoryMib: number;
  readonly vcpus: number;
  readonly wanted: number;
  readonly ready: number;
}

export interface SandboxesClient {
  /** Creates a sandbox. Resolves when commands can run in it. A retry after a lost connection creates no second one. */
  create(request: CreateSandbox, options?: CreateOptions, signal?: AbortSignal): Promise<SandboxInfo>;
  /** A killed sandbox has the status `stopped`. */
  get(id: string, signal?: AbortSignal): Promise<SandboxInfo>;
  /** The newest sandboxes. */
  list(options?: ListOptions, signal?: AbortSignal): Promise<readonly SandboxInfo[]>;
  /** Like `list`, by default with sandboxes of every status, also of those that have ended. */
  listPast(options?: PastOptions, signal?: AbortSignal): Promise<readonly SandboxInfo[]>;
  /** A token that is accepted in place of a key by the routes of this sandbox alone. Default: for an hour. */
  createToken(id: string, options?: { readonly expiresInSeconds?: number }, signal?: AbortSignal): Promise<string>;
  /** Saves a sandbox to disk with its memory and processes, and frees the host's memory. Any use wakes it. */
  hibernate(id: string, signal?: AbortSignal): Promise<{ readonly sizeBytes: number }>;
  /** Wakes a hibernated sandbox. Its idle timeout stays unless one is given. */
  wake(id: string, options?: { readonly idleTimeoutSeconds?: number }, signal?: AbortSignal): Promise<SandboxInfo>;
  /**
   * Changes environment variables: for commands that start from now on when the sandbox runs, otherwise from its next wake.
   * null removes a variable, and those that are not named stay. Returns the names of all variables.
   */
  changeEnvironment(
    id: string,
    changes: Readonly<Record<string, string | null>>,
    signal?: AbortSignal,
  ): Promise<readonly string[]>;
  /** Changes the memory of a running sandbox. `wrong_state` when the sandbox uses memory that it would give back. */
  scale(id: string, memoryMib: number, signal?: AbortSignal): Promise<void>;
  /**
   * Lets the load of the sandbox set its memory within a range. A bound that is absent is the present size. A later `scale`
   * ends it.
   */
  setAutoscale(id: string, range: AutoscaleRange | "off", signal?: AbortSignal): Promise<void>;
  /** Reboots the guest: processes end, files stay. */
  reboot(id: string, signal?: AbortSignal): Promise<void>;
  /** Boots the disks in a new machine, even when the old one has ended or does not respond. */
  powerCycle(id: string, signal?: AbortSignal): Promise<void>;
  /** Deletes a sandbox. Only its checkpoints remain. A deleted sandbox is not an error. */
  kill(id: string, signal?: AbortSignal): Promise<void>;
  /** The kept console output of the sandbox's machine. A hibernated sandbox has none. */
  console(id: string, signal?: AbortSignal): Promise<string>;
  /** The pools of ready machines. */
  pool(signal?: AbortSignal): Promise<ReadyMachines>;
  /** Sets the idle timeout in seconds (0: never) and restarts it. */
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
    async list({ limit, ...selection } = {}, signal) {
      const query = { ...selection, ...(limit === undefined ? {} : { limit: String(limit) }) };
      return (await http.call(listSandboxes, { query }, signal)).map(sandboxOf);
    },
    async listPast({ limit, ...selection } = {}, signal) {
      const query = { ...selection, ...(limit === undefined ? {} : { limit: String(limit) }) };
      return (await http.call(listPastSandboxes, { query }, signal)).map(sandboxOf);
    },
    async createToken(id, { expiresInSeconds } = {}, signal) {
      const body = expiresInSeconds === undefined ? {} : { expires_in: expiresInSeconds };
      return (await http.call(refreshSandboxToken, { parameters: { id }, body }, signal)).token;
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
    async changeEnvironment(id, changes, signal) {
      const body = { envs: { ...changes } };
      return (await http.call(changeEnvironment, { parameters: { id }, body }, signal)).names;
    },
    async setAutoscale(id, range, signal) {
      const { minMemoryMib, maxMemoryMib } = range === "off" ? {} : range;
      const body = {
        enabled: range !== "off",
        ...(minMemoryMib === undefined ? {} : { minMemoryMB: minMemoryMib }),
        ...(maxMemoryMib === undefined ? {} : { maxMemoryMB: maxMemoryMib }),
      };
      await http.call(setAutoscale, { parameters: { id }, body }, signal);
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
      const { wanted, ready, templates } = await http.call(getReadyMachines, {}, signal);
      return {
        ...{ wanted, ready },
        templates: templates.map(({ memoryMB, cpuCount, ...rest }) => ({
          ...rest,
          memoryMib: memoryMB,
          vcpus: cpuCount,
        })),
      };
    },
    async setTimeout(id, seconds, signal) {
      await http.call(setIdleTimeout, { parameters: { id }, body: { timeout: seconds } }, signal);
    },
  };
}

/** The last event of a create. A server without progress to report answers with plain JSON. */
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
  throw new SandboxError(
    "unavailable",
    "the connection to the server ended before it reported the sandbox: list the sandboxes, it may exist",
  );
}

function messageOf(data: string): string {
  const log: unknown = JSON.parse(data);
  return typeof log === "object" && log !== null && "message" in log ? String(log.message) : data;
}

/** Translates to the public names of the REST API. */
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
    ...networkBody(request),
    ...(request.alias === undefined ? {} : { alias: request.alias }),
    ...(request.onTimeout === undefined ? {} : { onTimeout: request.onTimeout }),
    ...(request.maxLifetimeSeconds === undefined ? {} : { maxLifetime: request.maxLifetimeSeconds }),
  };
}

/** The fields of a create or a fork that concern the network. */
export function networkBody({
  networkEnabled,
  egress,
  port,
  previewToken,
  secretStore,
}: Pick<CreateSandbox, "networkEnabled" | "egress" | "port" | "previewToken" | "secretStore">): CreateSandboxBody {
  return {
    ...(networkEnabled === undefined ? {} : { networkEnabled }),
    ...(egress === undefined ? {} : { egress: writableEgress(egress) }),
    ...(port === undefined ? {} : { port }),
    ...(previewToken === undefined ? {} : { previewAuth: { scheme: "bearer", token: previewToken } }),
    ...(secretStore === undefined ? {} : { secretStore }),
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
    ...(reply.onTimeout === undefined ? {} : { onTimeout: reply.onTimeout }),
    ...(reply.deleteAt === undefined ? {} : { deleteAt: reply.deleteAt }),
    ...(reply.reason === undefined ? {} : { reason: reply.reason }),
    ...(reply.restoredFrom === undefined ? {} : { restoredFrom: reply.restoredFrom }),
    ...(reply.restoredBecause === undefined ? {} : { restoredBecause: reply.restoredBecause }),
    ...(reply.fromCheckpointId === undefined ? {} : { fromCheckpointId: reply.fromCheckpointId }),
    ...(reply.hostPort === undefined ? {} : { hostPort: reply.hostPort }),
    ...(reply.previewAuthToken === undefined ? {} : { previewToken: reply.previewAuthToken }),
  };
}
