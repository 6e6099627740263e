import type { EgressRules, NetworkPolicy } from "../egress.ts";
import type { SandboxId, SnapshotId } from "../ids.ts";
import type { Guest } from "./guest.ts";

/**
 * Everything the control plane asks of a worker. In one process it is the worker itself; between two hosts it is a client
 * with the same members, so every member takes and gives data, and streams are async iterables. Every error is a
 * `SandboxError`; a sandbox that does not run here is `not_found`.
 *
 * Aborting a signal gives the operation up. A call without one is finished even when its caller has gone; a client on
 * another host bounds it with a deadline of its own and reports `unavailable`.
 */
export interface Worker {
  /** Known once the connection stands; names this worker in the rows of its sandboxes. */
  readonly id: string;
  /** Known once the connection stands; constant for the life of the worker. */
  readonly description: WorkerDescription;

  /**
   * Acquires disks and network, starts a machine and introduces its guest; resolves when a command would work. A failure
   * leaves nothing behind. `onProgress` receives steps that take longer than a moment, such as building an image.
   */
  startSandbox(
    request: StartSandbox,
    onProgress: (progress: Progress) => void,
    signal: AbortSignal,
  ): Promise<StartedSandbox>;
  /** Ends the machine and removes everything that belongs to the sandbox. Stopping an unknown sandbox succeeds. */
  stopSandbox(id: SandboxId): Promise<void>;
  /** Sandboxes that are here now. After a start these are the ones adopted from a worker that has ended. */
  listSandboxes(): Promise<readonly HeldSandbox[]>;
  /**
   * Resolves when the machine of the sandbox ends. The disks stay until `stopSandbox`, and `powerCycleSandbox` boots them
   * again. Aborting the signal only ends the wait.
   */
  waitForEnd(id: SandboxId, signal: AbortSignal): Promise<SandboxEnd>;
  /** Boots the guest's kernel again on the same machine, disks and network. Resolves when a command would work. */
  rebootSandbox(id: SandboxId, signal: AbortSignal): Promise<void>;
  /** Boots the same disks on a new machine, from any state of the old one. */
  powerCycleSandbox(id: SandboxId, signal: AbortSignal): Promise<void>;
  /**
   * Gives the guest more memory while it runs, or takes some back, and changes its other limits. `invalid_argument` for a
   * size that its machine cannot have, `no_capacity` when the host has no room, `not_supported` where machines keep their
   * size.
   */
  scaleSandbox(id: SandboxId, size: SandboxSize, signal: AbortSignal): Promise<Scaled>;
  /**
   * Applies another network policy from now on, to existing connections as well. `not_supported` where it cannot be
   * enforced: see {@link WorkerDescription}.
   */
  setNetworkPolicy(id: SandboxId, policy: NetworkPolicy): Promise<void>;
  /**
   * Replaces the secrets of a sandbox that was started with some, from now on. Connections that the earlier ones were
   * used on are cut.
   */
  setSecrets(id: SandboxId, secrets: SandboxSecrets): Promise<void>;
  /** Replaces the environment of a sandbox, for commands that start from now on and for later starts of its machine. */
  setEnvironment(id: SandboxId, envs: Readonly<Record<string, string>>): Promise<void>;
  /** The network policy's refusals of the last hour, newest first. */
  networkRefusals(id: SandboxId): Promise<readonly NetworkRefusal[]>;
  /** The end of what the machine has written to its console. */
  readConsole(id: SandboxId): Promise<string>;
  /** Commands, files and ports inside the sandbox. */
  guest(id: SandboxId): Guest;

  /**
   * Captures the machine, which then runs on: its pause is `pausedMs`. The snapshot exists when this resolves; a failure
   * leaves nothing of it behind, and the machine runs. `wrong_state` when the guest agent cannot freeze a disk,
   * `unavailable` when it does not confirm the freeze.
   */
  captureSandbox(id: SandboxId, request: Capture, signal: AbortSignal): Promise<CapturedSnapshot>;
  /**
   * Captures the machine and ends it. The snapshot exists before the machine ends; after a failure the machine runs.
   */
  hibernateSandbox(id: SandboxId, snapshotId: SnapshotId, signal: AbortSignal): Promise<CapturedSnapshot>;
  /** Undefined when the snapshot does not exist; an unfinished one does not. */
  findSnapshot(snapshotId: SnapshotId): Promise<StoredSnapshot | undefined>;
  /** Files that other snapshots or running sandboxes share stay. Removing an unknown snapshot succeeds. */
  removeSnapshot(snapshotId: SnapshotId): Promise<void>;
  /**
   * Stores a copy of the snapshot in the object store. When this resolves, the copy has been read back and verified, and
   * a start on any worker with the same store fetches it. Uploading a stored snapshot again is cheap. `not_found` when
   * this worker does not have the snapshot, `not_supported` when it has no object store.
   */
  uploadSnapshot(snapshotId: SnapshotId, signal: AbortSignal): Promise<void>;
  /** Removes the copy in the object store. Removing one that is not stored succeeds. */
  removeStoredSnapshot(snapshotId: SnapshotId): Promise<void>;
  /** Removes old objects from the object store that no stored snapshot of any worker needs. */
  sweepStore(signal: AbortSignal): Promise<SweptStore>;

  /**
   * Bytes of the host's disk that the files of these sandboxes and snapshots take together. A file that several share
   * counts once; files of images and templates, which all organizations share, do not count. Unknown ids take nothing.
   */
  measureDisk(owned: OwnedFiles): Promise<number>;
  /**
   * What the machines of sandboxes have used, those that have ended included. `counted` names machines that have ended and
   * whose use is stored: the worker forgets it.
   */
  measureUse(counted: readonly string[]): Promise<readonly MachineUse[]>;

  /** Requests that guests make for themselves, for one listener at a time. Each is answered with `answerGuest`. */
  guestRequests(signal: AbortSignal): AsyncIterable<GuestRequest>;
  /** Answers a request of a guest. An answer after the guest has stopped waiting is dropped. */
  answerGuest(requestId: string, answer: GuestAnswer): Promise<void>;
  /** Machines that are ready to become a sandbox. */
  readyMachines(): Promise<ReadyMachinesState>;
}

/** What an organization has on a worker's disk. */
export interface OwnedFiles {
  readonly sandboxes: readonly SandboxId[];
  readonly snapshots: readonly SnapshotId[];
}

/** What a process of a sandbox's machine has used since it started, as its host counts. The numbers only grow. */
export interface MachineUse {
  readonly sandboxId: SandboxId;
  /** Names the process. It stays the same when another worker adopts the machine, and no other process has it. */
  readonly process: string;
  /** Processor time of the process, its devices included. */
  readonly cpuMs: number;
  /** Bytes that have left the machine's network. 0 where the host does not count them: without network namespaces. */
  readonly egressBytes: number;
  /** The process has ended: these numbers are its last. */
  readonly ended: boolean;
}

/** The ready machines of all templates. */
export interface ReadyMachinesState {
  readonly wanted: number;
  readonly ready: number;
  /** The templates that sandboxes have used lately, those in higher demand first. */
  readonly templates: readonly ReadyTemplate[];
}

/** The ready machines of one template. They have its shape until a create gives one the shape of its sandbox. */
export interface ReadyTemplate {
  readonly image: string;
  readonly memoryMib: number;
  readonly vcpus: number;
  readonly wanted: number;
  readonly ready: number;
}

export interface WorkerDescription {
  readonly hypervisor: HypervisorName;
  readonly hypervisorVersion: string;
  readonly accelerator: { readonly name: string; readonly reason: string };
  readonly network: {
    readonly mode: string;
    readonly reason: string;
    /** The parts of a policy that this mode does not enforce, in words; absent: every part is enforced. */
    readonly notEnforced?: readonly string[];
  };
  /** Names of the images that a sandbox can start from. */
  readonly images: readonly string[];
  /**
   * The object store of the worker: it uploads snapshots there, and a start fetches a snapshot that it lacks. Workers with
   * equal values share one store. Absent: the worker has none.
   */
  readonly objectStore?: string;
  /** The worker pauses its machines when no server has asked for it for so long, in seconds. Absent: it never does. */
  readonly leaseSeconds?: number;
  /** Sandboxes can use secrets. Absent: it cannot put them into requests. */
  readonly secrets?: true;
}

export type HypervisorName = "qemu" | "firecracker" | "fake";

/** What a sandbox may use. */
export interface SandboxSize {
  readonly memoryMib: number;
  /** Processor time, in percent of one processor. Absent: all of its vCPUs at a start, and unchanged while it runs. */
  readonly cpuPercent?: number | undefined;
  /** Maximum of processes and threads. Absent: the guest agent's limit at a start, and unchanged while it runs. */
  readonly maxPids?: number | undefined;
}

export interface StartSandbox extends SandboxSize {
  readonly id: SandboxId;
  /** Rises with every start of the same sandbox. `wrong_state` when a newer one has started on this worker. */
  readonly generation: number;
  /** The owner: private files of one organization are never shared with another. */
  readonly organizationId: string;
  /** The owner's number, which is unique in its control plane. Absent in journal entries of earlier versions. */
  readonly organizationNumber?: number | undefined;
  readonly from: StartFrom;
  readonly vcpus: number;
  readonly workspaceMib: number;
  readonly envs: Readonly<Record<string, string>>;
  readonly networkEnabled: boolean;
  /** `not_supported` where the worker cannot enforce rules. */
  readonly egress?: EgressRules | undefined;
  /** `not_supported` where the worker cannot put secrets into requests. Absent: the sandbox uses none. */
  readonly secrets?: SandboxSecrets | undefined;
}

/**
 * Secrets that a sandbox uses and never sees. The guest has sealed texts; outside it, the sealed text of a secret is
 * replaced by its value in HTTPS requests to the secret's hosts. A worker keeps values in memory alone.
 */
export interface SandboxSecrets {
  /**
   * Signs certificates for the secrets' hosts, which the guest trusts. Absent: the worker has restarted, and waits for
   * {@link Worker.setSecrets}.
   */
  readonly authority?: GuestAuthority | undefined;
  readonly secrets: readonly SealedSecret[];
}

/** A certificate authority, PEM. Its private key never enters a guest. */
export interface GuestAuthority {
  readonly certificate: string;
  readonly privateKey: string;
}

export interface SealedSecret {
  /** The name of its variable, for people. */
  readonly name: string;
  /** The text that the guest has. */
  readonly sealed: string;
  readonly value: string;
  /** Hosts that it may be sent to: `matchesHost` of secret-hosts.ts. Empty: none. */
  readonly hosts: readonly string[];
}

export type StartFrom =
  | { readonly kind: "image"; readonly image: string }
  /**
   * `identity`: `same` continues the captured sandbox (wake, restore), `new` makes a copy of it (fork). The disks are
   * booted when the shape differs from the captured one, when the snapshot has no memory, and when its memory cannot be
   * restored here. A snapshot whose files have changed since the capture is refused as `incompatible`.
   */
  | {
      readonly kind: "snapshot";
      readonly snapshotId: SnapshotId;
      readonly identity: "same" | "new";
      /** The snapshot may belong to another organization that has published it. */
      readonly public?: boolean;
    };

export interface Capture {
  readonly snapshotId: SnapshotId;
  /** `disks` leaves the memory out: a start from such a snapshot boots. */
  readonly contents: "memory and disks" | "disks";
}

export interface StoredSnapshot {
  /** Space on the host's disk, without what it shares with other snapshots. */
  readonly sizeBytes: number;
}

/** What a sweep of the object store has removed. */
export interface SweptStore {
  readonly objects: number;
  readonly bytes: number;
}

export interface CapturedSnapshot extends StoredSnapshot {
  /** How long the vCPUs were stopped, in milliseconds. */
  readonly pausedMs: number;
}

/** A guest asks for another size; `body` is what it sent, as for `POST /api/sandboxes/:id/scale`. */
export interface GuestRequest {
  /** Unique among the requests of this worker. */
  readonly requestId: string;
  readonly sandboxId: SandboxId;
  readonly kind: "scale";
  readonly body: unknown;
}

export interface GuestAnswer {
  /** A status code of HTTP. */
  readonly status: number;
  readonly body: object;
}

export interface Scaled {
  /** False: the guest needs the memory that it would have to give back, and nothing has changed. */
  readonly done: boolean;
  /** The reason, for people. */
  readonly because?: string;
}

/** A sandbox that is on this worker. */
export interface HeldSandbox {
  readonly id: SandboxId;
  readonly generation: number;
  /** Memory of its machine, or of the machine that its disks will boot with. */
  readonly memoryMib: number;
  /** False: its machine has ended and only its disks are left, which `powerCycleSandbox` boots. */
  readonly running: boolean;
  /** It uses secrets, and the worker waits for {@link Worker.setSecrets}. */
  readonly lacksSecrets?: true;
}

export interface StartedSandbox {
  /** `disk`: the guest booted, and `restoredBecause` says why its memory was not restored. */
  readonly restoredFrom: "memory" | "disk";
  readonly restoredBecause?: string;
  /** Duration of each part of the start, in order, for `Server-Timing`. */
  readonly spans: readonly Span[];
}

export interface Span {
  readonly name: string;
  readonly milliseconds: number;
}

export interface Progress {
  readonly step: string;
  readonly percent?: number;
}

export interface SandboxEnd {
  /**
   * `stopped`: a caller stopped it. `reset`: the guest rebooted, on request or after a panic. `exited`: the guest powered
   * off, or the process died. `detail` says what is known.
   */
  readonly reason: "stopped" | "reset" | "exited";
  readonly detail: string;
}

/** Traffic that a sandbox's network policy has refused. */
export interface NetworkRefusal {
  /** Time of the last refusal, ISO 8601. */
  readonly at: string;
  /** Number of refusals within the last hour. */
  readonly count: number;
  readonly protocol: "tcp" | "udp" | "icmp" | "dns" | "tls" | "http";
  /** The name that was requested. */
  readonly host?: string;
  readonly address?: string;
  readonly port?: number;
  readonly reason: string;
}
