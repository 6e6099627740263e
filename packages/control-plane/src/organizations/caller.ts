import type { Scope } from "@opensandbox/wire/public/scopes.ts";

/** The owner of a key. */
export interface Caller {
  readonly organizationId: string;
  /** Absent: the static key, which cannot be revoked while the server runs. */
  readonly keyId?: string;
  /** The name and the beginning of the key, for people. */
  readonly actor: string;
  readonly scopes: readonly Scope[];
  /** It is a token that the key has made. */
  readonly isToken?: true;
  /** It is a session of the dashboard, or a token of one. */
  readonly isSession?: true;
  /** The only sandbox whose routes it may call. Absent: any of the organization. */
  readonly sandboxId?: string;
}
