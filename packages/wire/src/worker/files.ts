/** Files of one guest. Every call rejects with `not_found` when the sandbox does not run on this worker. */
export interface GuestFiles {
  /** Opens a file and streams `range` of it. */
  read(path: string, range: ByteRange, signal: AbortSignal): Promise<OpenFile>;
  /**
   * Replaces the file at `path` when `content` has ended; nothing is visible before that. Returns the number of bytes
   * written.
   */
  write(
    path: string,
    content: AsyncIterable<Uint8Array>,
    options: { readonly mode?: number },
    signal: AbortSignal,
  ): Promise<number>;
  /** Follows a symbolic link, unless `noFollow` asks for the link itself. */
  stat(path: string, options: { readonly noFollow?: boolean }, signal: AbortSignal): Promise<FileEntry>;
  /** Entries of a directory. `not_supported` for a directory with more entries than a listing may have. */
  list(path: string, signal: AbortSignal): Promise<readonly FileEntry[]>;
  /** Makes a directory with its missing parents; an existing directory stays unchanged. */
  makeDirectory(path: string, signal: AbortSignal): Promise<void>;
  /** Removes a file, or a directory with everything in it. Removing a path that does not exist succeeds. */
  remove(path: string, signal: AbortSignal): Promise<void>;
  /** Moves a file or directory. Replaces an existing entry at `to`, and makes its missing parents. */
  rename(from: string, to: string, signal: AbortSignal): Promise<void>;
  /** Changes the attributes that are given and leaves the others. */
  setAttributes(
    path: string,
    attributes: { readonly mode?: number; readonly owner?: string; readonly group?: string },
    signal: AbortSignal,
  ): Promise<FileEntry>;
  /** Resolves once every further change is reported; the changes end when the signal is aborted. */
  watch(
    path: string,
    options: { readonly recursive: boolean },
    signal: AbortSignal,
  ): Promise<AsyncIterable<readonly FileChange[]>>;
  /** Makes the guest write its dirty pages to its disks. */
  sync(signal: AbortSignal): Promise<void>;
}

export interface FileEntry {
  readonly name: string;
  readonly path: string;
  readonly kind: "file" | "directory" | "symlink" | "other";
  /** In bytes. */
  readonly size: number;
  readonly mode: number;
  readonly modifiedMs: number;
  /** Names, or numbers for users and groups without a name. */
  readonly owner: string;
  readonly group: string;
  /** The path that a symbolic link holds. */
  readonly linkTarget?: string;
}

/** A part of a file, in bytes. Without a length, or with 0: to the end. */
export interface ByteRange {
  readonly offset?: number;
  readonly length?: number;
}

/**
 * A change below a watched path. `created`: perhaps a file that replaced an older one. `lost`: changes were dropped, so
 * the caller must look again.
 */
export interface FileChange {
  readonly kind: "created" | "changed" | "removed" | "lost";
  readonly path: string;
}

export interface OpenFile {
  readonly entry: FileEntry;
  /** The caller reads it to its end, or aborts the signal. */
  readonly content: AsyncIterable<Uint8Array>;
}
