import type { EventType } from "@opensandbox/wire/public/events.ts";
import type { Generated, Selectable } from "kysely";
import type { LastingState, SandboxState } from "#lifecycle/sandbox-lifecycle.ts";

/** The rows as stored. Times are milliseconds since 1970 (UTC), maps are JSON, booleans are 0 or 1. */
export interface Tables {
  organizations: {
    id: string;
    name: string;
    created_at: number;
    /** The organization gets it at the first start of a sandbox. No other organization has it. */
    number: Generated<number | null>;
    /** Since then, its keys are refused. */
    revoked_at: Generated<number | null>;
    /** Null: the server's limit. */
    max_sandboxes: Generated<number | null>;
    max_memory_mib: Generated<number | null>;
    max_disk_mib: Generated<number | null>;
  };
  api_keys: ApiKeysTable;
  sandboxes: SandboxRow;
  checkpoints: CheckpointRow;
  patches: PatchRow;
  images: ImageRow;
  templates: TemplateRow;
  template_builds: TemplateBuildRow;
  template_tags: TemplateTagRow;
  /** Unreferenced snapshots that are still to be removed. */
  unwanted_snapshots: { snapshot_id: string };
  /** Hexadecimal. */
  server_keys: { name: string; key: string };
  previews: PreviewRow;
  events: EventRow;
  /** `head`: the sequence of the last event. `webhooks`: the last event whose deliveries exist. */
  event_cursors: { name: "head" | "webhooks"; sequence: number };
  /** When a worker was last known to be alive, at intervals of half a minute. */
  worker_heartbeats: { worker_id: string; alive_at: number };
  webhooks: WebhookRow;
  webhook_deliveries: WebhookDeliveryRow;
  lifetimes: LifetimeRow;
  secret_stores: SecretStoreRow;
  secrets: SecretRow;
  guest_authorities: GuestAuthorityRow;
  ssh_keys: SshKeyRow;
  audit_entries: AuditEntryRow;
  leases: LeaseRow;
  servers: ServerRow;
  gates: GateRow;
  /** Snapshots that a server reads now, so that no other one removes them. */
  snapshot_uses: { id: string; snapshot_id: string; server_id: string };
  workers: WorkerRow;
  /** Which workers of a fleet have, or may have, the files of a snapshot. */
  snapshot_copies: { snapshot_id: string; worker_id: string };
  snapshot_uploads: SnapshotUploadRow;
  /** The last numbers of each process of a machine, which only grow. */
  measured_processes: { process: string; cpu_ms: number; egress_bytes: number; measured_at: number };
  measured_hours: MeasuredHourRow;
}

/** What a sandbox has used within an hour. */
export interface MeasuredHourRow {
  sandbox_id: string;
  /** The beginning of the hour. */
  hour: number;
  organization_id: string;
  /** The first and the last time of the numbers, within the hour. */
  from_at: number;
  until_at: number;
  cpu_ms: number;
  egress_bytes: number;
}

/** A public key that may connect to the sandboxes of an organization. */
interface SshKeyRow {
  id: string;
  organization_id: string;
  name: string;
  type: string;
  /** The key as it is sent over SSH, in base64. */
  blob: string;
  fingerprint: string;
  created_at: number;
  last_used_at: number | null;
}

/** The upload of a snapshot of a fleet to the object store. */
interface SnapshotUploadRow {
  snapshot_id: string;
  /** The worker that uploads it. */
  worker_id: string;
  state: "local" | "uploading" | "stored";
  /** The object store, when it is stored. */
  store: Generated<string | null>;
  /** Uploads that have failed. */
  attempts: Generated<number>;
  /** When the next attempt is due; of an upload under way, when its claim ends. */
  next_at: Generated<number>;
  /** Why the last attempt failed. */
  error: Generated<string | null>;
  stored_at: Generated<number | null>;
}

export interface SecretStoreRow {
  id: string;
  organization_id: string;
  name: string;
  /** A JSON array. Empty: each secret names its own. */
  hosts: string;
  created_at: number;
  updated_at: number;
}

export interface SecretRow {
  id: string;
  store_id: string;
  name: string;
  /** Encrypted with the master key. */
  value: string;
  /** A JSON array. Empty: those of the store. */
  hosts: string;
  created_at: number;
  updated_at: number;
}

/** The certificate authority that a sandbox, and the forks of it, trust. */
export interface GuestAuthorityRow {
  id: string;
  /** PEM. */
  certificate: string;
  /** PEM, encrypted with the master key. */
  private_key: string;
  created_at: number;
}

/** A worker that has joined the fleet. */
export interface WorkerRow {
  id: string;
  /** Where the server reaches it. */
  url: string;
  /** The worker's last description of itself, as JSON. */
  description: string;
  /** 1: it gets no new sandboxes. */
  cordoned: number;
  /** 1: its sandboxes leave it. */
  draining: Generated<number>;
  joined_at: number;
  /** The last answer of the worker, as JSON. Present when several servers use the database. */
  status: Generated<string | null>;
  /** 1: it answers, and its sandboxes are reconciled with the rows. */
  up: Generated<number>;
  /** When it last answered, in milliseconds since 1970. */
  seen_at: Generated<number | null>;
}

interface ApiKeysTable {
  id: string;
  organization_id: string;
  name: string;
  /** SHA-256 of the key, hexadecimal. */
  key_hash: string;
  /** The beginning of the key, by which people tell keys apart. */
  key_prefix: string;
  created_at: number;
  /** Separated by spaces. */
  scopes: Generated<string>;
  expires_at: Generated<number | null>;
  last_used_at: Generated<number | null>;
  revoked_at: Generated<number | null>;
}
export type ApiKeyRow = Selectable<ApiKeysTable>;

/** One of the servers that use a PostgreSQL database together. */
interface ServerRow {
  id: string;
  /** Its host and process, for people. */
  place: string;
  /** Milliseconds since 1970 by the database's clock. */
  expires_at: number;
  /** 1: the others are taking over, and it can begin no session. */
  ended: Generated<number>;
}

/** The gate of a sandbox that an operation of a server holds. */
interface GateRow {
  sandbox_id: string;
  /** Empty: that server has ended. */
  server_id: string;
  /** 1: a server that has ended left it, so the sandbox may differ from its row. */
  inherited: Generated<number>;
  /** 1: another server waits for it. */
  awaited: Generated<number>;
}

interface LeaseRow {
  name: string;
  /** A random name of the server, which its sessions carry. */
  holder: string;
  /** The holder's host and process, for people. */
  place: string;
  /** Rises with every holder. */
  generation: number;
  /** Milliseconds since 1970 by the database's clock. */
  expires_at: number;
}

interface AuditEntryRow {
  /** 32 hexadecimal digits. The first 12 are the time. */
  id: string;
  organization_id: string;
  at: number;
  actor: string;
  key_id: string | null;
  action: string;
  method: string;
  path: string;
  resource: string | null;
  address: string;
  request_id: string;
  status: number;
}

export interface SandboxRow {
  id: string;
  organization_id: string;
  state: SandboxState;
  generation: number;
  /** Empty when no worker holds anything of it, such as while it is hibernated. */
  worker_id: string;
  image: string;
  vcpus: number;
  memory_mib: number;
  workspace_mib: number;
  network_enabled: number;
  /** Plain text, since each start of the sandbox needs it. Only the owner can read the file. */
  envs: string;
  metadata: string;
  alias: string;
  idle_timeout_seconds: number;
  expires_at: number | null;
  created_at: number;
  started_at: number | null;
  ended_at: number | null;
  end_reason: string | null;
  idempotency_key: string | null;
  /** Builds an image and is invisible to users. */
  hidden: number;
  /** Deleted when others are hibernated: at the idle timeout and at the end of the server. */
  ephemeral: number;
  /** What its idle timeout does. Null: it hibernates it. */
  on_timeout: "hibernate" | "kill" | null;
  /** When it is deleted, whatever it does. */
  delete_at: number | null;
  from_checkpoint_id: string | null;
  /** The sequence of the last patch of that checkpoint that was applied. */
  last_patch_sequence: number;
  patch_error: string | null;
  /** Set before the worker captures it and cleared after the wake from it has succeeded. */
  hibernation_snapshot_id: string | null;
  hibernation_size_bytes: number | null;
  restored_from: "memory" | "disk" | null;
  restored_because: string | null;
  recovered_from: string | null;
  /** Whether the next call boots the sandbox's disks. */
  boots_on_use: number;
  tags: string;
  tags_updated_at: number | null;
  scaling_locked: number;
  cpu_percent: number | null;
  max_pids: number | null;
  autoscale: string | null;
  egress: string | null;
  /** SHA-256 of the token, hexadecimal. Null: previews are open. */
  preview_token_hash: string | null;
  /** The guest's port that {@link host_port} of this host forwards to. */
  forwarded_port: number | null;
  host_port: number | null;
  /** A JSON array of ids; secrets of later stores take precedence. Null: it was created without one. */
  secret_stores: string | null;
  authority_id: string | null;
}

/** The set end of a sandbox. */
export interface LifetimeRow {
  sandbox_id: string;
  template: string;
  ends_at: number;
  at_end: "delete" | "hibernate";
  wakes_on_use: number;
  /** Hibernated by a client or at its end, and not by a server's shutdown. */
  paused: number;
}

export interface PreviewRow {
  id: string;
  sandbox_id: string;
  port: number;
  custom_hostname: string | null;
  /** When the DNS record of the custom domain was last found. */
  domain_proved_at: number | null;
  created_at: number;
}

export interface CheckpointRow {
  id: string;
  organization_id: string;
  sandbox_id: string;
  name: string;
  kind: "full" | "disk_only";
  promote_to_full: number;
  status: "processing" | "ready" | "failed";
  /** Set before the worker captures it. Several checkpoints may share one snapshot. */
  snapshot_id: string;
  size_bytes: number;
  is_public: number;
  /** Belongs to an image and is not listed. */
  hidden: number;
  /** The worker that captures it while it is `processing`. */
  worker_id: string;
  /** The server that makes it while it is `processing`, when several servers use the database. */
  server_id: string | null;
  image: string;
  vcpus: number;
  memory_mib: number;
  workspace_mib: number;
  network_enabled: number;
  egress: string | null;
  envs: string;
  metadata: string;
  /** If its sandbox is a fork: the last patch of the forked checkpoint that the sandbox had run. */
  last_patch_sequence: number;
  /** The last sequence number given to a patch of this checkpoint. */
  patch_sequence: number;
  created_at: number;
  failed_at: number | null;
  error: string | null;
  /** Those of its sandbox. */
  secret_stores: string | null;
  authority_id: string | null;
}

export interface PatchRow {
  id: string;
  checkpoint_id: string;
  sequence: number;
  script: string;
  description: string;
  created_at: number;
}

export interface ImageRow {
  id: string;
  organization_id: string;
  /** SHA-256 of base and steps, hexadecimal. */
  content_hash: string;
  /** Null: built for a create and found by its content. */
  name: string | null;
  checkpoint_id: string | null;
  manifest: string;
  status: "building" | "ready" | "failed";
  /** The worker that builds it while it is `building`. */
  worker_id: string;
  created_at: number;
  last_used_at: number;
  error: string | null;
}

export interface TemplateRow {
  id: string;
  organization_id: string;
  /** Unique in its organization. */
  name: string;
  is_public: number;
  created_at: number;
}

export interface TemplateBuildRow {
  id: string;
  template_id: string;
  organization_id: string;
  status: "waiting" | "building" | "ready" | "failed";
  tags: string;
  vcpus: number | null;
  memory_mib: number | null;
  definition: string | null;
  checkpoint_id: string | null;
  /** The worker that builds it while it is `building`. */
  worker_id: string;
  created_at: number;
  finished_at: number | null;
  error: string | null;
  failed_step: string | null;
  /** The lines of the log, written when the build ends. */
  log: Generated<string>;
}

export interface TemplateTagRow {
  template_id: string;
  tag: string;
  build_id: string;
  created_at: number;
}

/** One event of a sandbox, with what the sandbox has from then on until its next event. */
export interface EventRow {
  /** Rises in the order of the commits, without gaps. */
  sequence: number;
  id: string;
  organization_id: string;
  sandbox_id: string;
  type: EventType;
  data: string;
  created_at: number;
  /** When the sandbox's next event came. Null: this is its last one, and it is not stopped. */
  until_at: number | null;
  state: LastingState;
  /** The memory of its machine; 0 without a machine. */
  memory_mib: number;
  vcpus: number;
  /** The size of its workspace; 0 when it is stopped. */
  disk_mib: number;
}

export interface WebhookRow {
  id: string;
  organization_id: string;
  name: string | null;
  url: string;
  /** A JSON array of types and patterns. Empty: all. */
  event_types: string;
  /** Null: all sandboxes of the organization. */
  sandbox_id: string | null;
  enabled: number;
  /** Encrypted. */
  secret: string;
  /** Encrypted. Deliveries also carry its signature until {@link previous_secret_until}. */
  previous_secret: string | null;
  previous_secret_until: number | null;
  idempotency_key: string | null;
  /** Events up to this one are not delivered: they came before the webhook was made or enabled. */
  from_sequence: number;
  created_at: number;
  updated_at: number;
}

export interface WebhookDeliveryRow {
  id: string;
  webhook_id: string;
  sandbox_id: string;
  event_id: string;
  event_type: EventType;
  /** The sequence of the event; 0 for a test. */
  sequence: number;
  /** Whether it waits for earlier deliveries of its sandbox, and later ones wait for it. */
  ordered: number;
  /** The body of the request, the same in every attempt. */
  body: string;
  status: "pending" | "success" | "failed";
  attempts: number;
  next_attempt_at: number;
  /** After this time a failed attempt is the last one. */
  retry_until: number;
  /** A server has claimed an attempt until this time. */
  claimed_until: number | null;
  created_at: number;
  attempted_at: number | null;
  response_status: number | null;
  error: string | null;
}
