import type { HttpClient } from "./http.ts";

export interface CreateSandbox {
  readonly image?: string;
  readonly vcpus?: number;
  readonly memoryMib?: number;
  readonly diskMib?: number;
  readonly envs?: Readonly<Record<string, string>>;
  readonly metadata?: Readonly<Record<string, string>>;
  /** Seconds without activity after which the sandbox goes; 0: never. */
  readonly idleTimeoutSeconds?: number;
  readonly networkEnabled?: boolean;
}

export interface Sandbox {
  readonly id: string;
  readonly status: string;
  readonly image?: string;
  readonly startedAt?: string;
  readonly vcpus?: number;
  readonly memoryMib?: number;
}

export interface SandboxesClient {
  /** Resolves when a command would work in it. */
  create(request: CreateSandbox, signal?: AbortSignal): Promise<Sandbox>;
  /** A killed sandbox is still known, as `stopped`. */
  get(id: string, signal?: AbortSignal): Promise<Sandbox>;
  /** Those that run. */
  list(signal?: AbortSignal): Promise<readonly Sandbox[]>;
  kill(id: string, signal?: AbortSignal): Promise<void>;
  /** Sets the idle timeout, in seconds, and starts it anew. 0: never. */
  setTimeout(id: string, seconds: number, signal?: AbortSignal): Promise<void>;
}

export function sandboxesClient(http: HttpClient): SandboxesClient {
  const path = (id: string): string => `/sandboxes/${encodeURIComponent(id)}`;
  return {
    async create(request, signal) {
      const json = createToWire(request);
      return sandboxFromWire(await http.json<SandboxOnWire>({ method: "POST", path: "/sandboxes", json }, signal));
    },
    async get(id, signal) {
      return sandboxFromWire(await http.json<SandboxOnWire>({ method: "GET", path: path(id) }, signal));
    },
    async list(signal) {
      const sandboxes = await http.json<SandboxOnWire[]>({ method: "GET", path: "/sandboxes" }, signal);
      return sandboxes.map(sandboxFromWire);
    },
    async kill(id, signal) {
      await http.done({ method: "DELETE", path: path(id) }, signal);
    },
    async setTimeout(id, seconds, signal) {
      await http.done({ method: "POST", path: `${path(id)}/timeout`, json: { timeout: seconds } }, signal);
    },
  };
}

/** The public wire's words, which are those of clients that exist. */
interface SandboxOnWire {
  readonly sandboxID: string;
  readonly status: string;
  readonly template?: string;
  readonly templateID?: string;
  readonly startedAt?: string;
  readonly cpuCount?: number;
  readonly memoryMB?: number;
}

function createToWire(request: CreateSandbox): Record<string, unknown> {
  return {
    templateID: request.image,
    cpuCount: request.vcpus,
    memoryMB: request.memoryMib,
    diskMB: request.diskMib,
    envs: request.envs,
    metadata: request.metadata,
    timeout: request.idleTimeoutSeconds,
    networkEnabled: request.networkEnabled,
  };
}

function sandboxFromWire(wire: SandboxOnWire): Sandbox {
  const image = wire.template ?? wire.templateID;
  return {
    id: wire.sandboxID,
    status: wire.status,
    ...(image === undefined ? {} : { image }),
    ...(wire.startedAt === undefined ? {} : { startedAt: wire.startedAt }),
    ...(wire.cpuCount === undefined ? {} : { vcpus: wire.cpuCount }),
    ...(wire.memoryMB === undefined ? {} : { memoryMib: wire.memoryMB }),
  };
}
