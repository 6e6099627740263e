/** What sandboxes may take. Absent: as much as the host has. */
export interface Limits {
  /** Active sandboxes of an organization. */
  readonly maxSandboxes: number;
  /** Memory of the active sandboxes of an organization together. */
  readonly organizationMemoryMib?: number | undefined;
  /** Memory of all active sandboxes together. */
  readonly memoryMib?: number | undefined;
  /** Disk that the sandboxes and snapshots of an organization take together. */
  readonly organizationDiskMib?: number | undefined;
  /** Disk that all sandboxes and snapshots take together. */
  readonly diskMib?: number | undefined;
}
