import type { SandboxState } from "#sandboxes/sandbox-lifecycle.ts";

/** The rows as they are stored. Times are milliseconds since 1970 (UTC), maps are JSON. */
export interface Tables {
  organizations: { id: string; name: string; created_at: number };
  api_keys: ApiKeyRow;
  sandboxes: SandboxRow;
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
}
