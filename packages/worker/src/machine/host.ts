import type { AgentTransportName } from "#host/agent-transport.ts";
import type { GuestRequests } from "#guest/guest-requests.ts";
import type { Admission } from "#host/admission.ts";
import type { Cgroups } from "#host/cgroups/cgroups.ts";
import type { Log } from "#host/log.ts";
import type { Hypervisor } from "#hypervisor/hypervisor.ts";
import type { NetworkPool } from "#network/network-pool.ts";
import type { MemoryThreads } from "#snapshots/memory-threads.ts";
import type { SnapshotStore } from "#snapshots/snapshot-store.ts";
import type { Progress, WorkerDescription } from "@opensandbox/wire/worker/worker.ts";

/** The outside world of a worker's sandboxes. */
export interface Host {
  readonly workerId: string;
  /** Holds `journal/`, `machines/`, `memory/`, `snapshots/` and `workers/`. */
  readonly dataDirectory: string;
  readonly hypervisor: Hypervisor;
  /** Memory of the template that machines of all sizes start from, in MiB. */
  readonly templateMemoryMib: number;
  /** Deadline of a guest that boots; a restore has a third of it, and at least a minute. */
  readonly bootTimeoutMs: number;
  /** Certificates (PEM) that every guest trusts besides those of its image. */
  readonly extraAuthorities?: string | undefined;
  /** What new machines have for their agent channel. */
  readonly agentTransport: AgentTransportName;
  readonly network: { readonly mode: "tap"; readonly pool: NetworkPool } | { readonly mode: "user" | "none" };
  readonly admission: Admission;
  /** Limits what each machine takes from the host; absent where this process cannot make cgroups. */
  readonly cgroups?: Cgroups | undefined;
  /** The host's location, in the operator's words. */
  readonly region: string;
  /** Whether the worker can start processes as other users and make namespaces. */
  readonly root: boolean;
  /** The worker lives for one command, and nothing of it outlives that. */
  readonly ephemeral: boolean;
  readonly description: WorkerDescription;
  /** Provides the files that a machine boots from, and builds missing ones; absent for a hypervisor that boots none. */
  readonly bootFiles: ProvideBootFiles | undefined;
  readonly snapshots: SnapshotStore;
  readonly templates: SnapshotStore;
  readonly templatesDirectory: string;
  readonly memory: MemoryThreads;
  readonly log: Log;
  readonly guestRequests: GuestRequests;
}

export type ProvideBootFiles = (
  request: { readonly image: string; readonly workspaceMib: number },
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
) => Promise<BootFiles>;

/** Paths of immutable files; sizes in bytes. The workspace may be smaller than requested: its disk is then enlarged. */
export interface BootFiles {
  readonly kernel: string;
  readonly initramfs: string;
  readonly rootfs: string;
  readonly rootfsBytes: number;
  readonly workspace: string;
  readonly agentDisk: string;
}
