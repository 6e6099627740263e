/** A named set of secrets of an organization. */
export interface SecretStore {
  /** A UUID. */
  readonly id: string;
  readonly organizationId: string;
  readonly name: string;
  /** Hosts that its secrets may be sent to. Empty: each secret names its own. */
  readonly hosts: readonly string[];
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** A secret without its value. */
export interface Secret {
  /** A UUID. */
  readonly id: string;
  readonly storeId: string;
  /** The name of the variable in a sandbox. */
  readonly name: string;
  /** Hosts that it may be sent to, within those of its store. Empty: those of the store. */
  readonly hosts: readonly string[];
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** A secret to set. */
export interface NewSecret {
  readonly name: string;
  readonly value: string;
  /** Absent: as before, and for a new secret those of the store. */
  readonly hosts?: readonly string[];
}
