import type { Shape } from "#snapshots/manifest.ts";

/** A machine to start, from an image or from a snapshot. */
export interface MachineRequest {
  readonly id: string;
  readonly image: string;
  readonly shape: Shape;
  readonly networkEnabled: boolean;
  /** The group of the organization whose private files it may read; undefined: no private files. */
  readonly tenantGroup: number | undefined;
  /** Copies private files of another organization, which has published them. */
  readonly fromPublic?: boolean;
}

/** A machine's own directory. Disposing it removes the directory, and last the machine's journal entry. */
export interface MachineDirectory extends AsyncDisposable {
  readonly path: string;
}
