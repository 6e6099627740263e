import type { SandboxState } from "#lifecycle/sandbox-lifecycle.ts";

/** The rows as they are stored. Times are milliseconds since 1970 (UTC), maps are JSON, truth is 0 or 1. */
export interface Tables {
  organizations: { id: string; name: string; created_at: number };
  api_keys: ApiKeyRow;
  sandboxes: SandboxRow;
  checkpoints: CheckpointRow;
  patches: PatchRow;
  images: ImageRow;
  /** Snapshots that nothing refers to any more and that are still to be removed. */
  unwanted_snapshots: { snapshot_id: string };
  /** Hexadecimal. */
  server_keys: { name: string; key: string };
  previews: PreviewRow;
}

interface ApiKeyRow {
  id: string;
  organization_id: string;
  name: string;
  /** SHA-256 of the key, hexadecimal. */
  key_hash: string;
  /** What tells keys apart for people. */
  key_prefix: string;
  created_at: number;
}

export interface SandboxRow {
  id: string;
  organization_id: string;
  state: SandboxState;
  generation: number;
  /** Empty where no worker has anything of it, such as while it hibernates. */
  worker_id: string;
  image: string;
  vcpus: number;
  memory_mib: number;
  workspace_mib: number;
  network_enabled: number;
  /** Plaintext: needed whenever the sandbox is started again. The file is readable by its owner alone. */
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
  /** Builds an image; no user sees it. */
  hidden: number;
  /** Is deleted where another one would be hibernated. */
  ephemeral: number;
  from_checkpoint_id: string | null;
  /** The patches of that checkpoint up to this one have been applied. */
  last_patch_sequence: number;
  patch_error: string | null;
  /** Named before the worker is asked to make it, and until the wake from it has succeeded. */
  hibernation_snapshot_id: string | null;
  hibernation_size_bytes: number | null;
  restored_from: "memory" | "disk" | null;
  restored_because: string | null;
  /** Its machine ended while no server ran: its disks are booted by the next use. */
  boots_on_use: number;
  tags: string;
  tags_updated_at: number | null;
  scaling_locked: number;
  autoscale: string | null;
  egress: string | null;
  /** SHA-256 of the token, hexadecimal. Null: previews need none. */
  preview_token_hash: string | null;
  /** The guest's port that {@link host_port} of this server leads to. */
  forwarded_port: number | null;
  host_port: number | null;
}

export interface PreviewRow {
  id: string;
  sandbox_id: string;
  port: number;
  custom_hostname: string | null;
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
  /** Named before the worker is asked to make it. Several checkpoints may have the same one. */
  snapshot_id: string;
  size_bytes: number;
  is_public: number;
  /** Belongs to an image; is not listed. */
  hidden: number;
  /** Who makes it, as long as it is `processing`. */
  worker_id: string;
  image: string;
  vcpus: number;
  memory_mib: number;
  workspace_mib: number;
  network_enabled: number;
  egress: string | null;
  envs: string;
  metadata: string;
  /** How far the sandbox had been patched by the checkpoint that it was forked from. */
  last_patch_sequence: number;
  /** The last number given to a patch of this checkpoint; never given again. */
  patch_sequence: number;
  created_at: number;
  failed_at: number | null;
  error: string | null;
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
  /** Null: made for a create, and found by its content alone. */
  name: string | null;
  checkpoint_id: string | null;
  manifest: string;
  status: "building" | "ready" | "failed";
  /** Who builds it, as long as it is `building`. */
  worker_id: string;
  created_at: number;
  last_used_at: number;
  error: string | null;
}
