import { runPrivileged } from "#images/privileged.ts";

export interface Ext4 {
  readonly file: string;
  readonly sizeMib: number;
  /** The directory that becomes its content, owners and attributes included. */
  readonly content: string;
  readonly label: string;
  /** The same content always makes the same image, so it can have a fixed identity. */
  readonly uuid: string;
  /** `journal`: MiB of it, 0 for a file system that is only read. */
  readonly journalMib: number;
  readonly options?: readonly string[];
  readonly signal?: AbortSignal;
}

/**
 * Makes a raw sparse ext4 image. What mke2fs leaves unwritten in a new file reads as zeros, which it knows, so the
 * guest's kernel has no inode tables to initialise later and a copy-on-write layer stays small.
 */
export async function makeExt4(request: Ext4): Promise<void> {
  const { file, sizeMib, content, label, uuid, journalMib, options = [], signal } = request;
  const journal = journalMib === 0 ? ["-O", "^has_journal"] : ["-J", `size=${journalMib}`];
  await runPrivileged(
    `make the ${label} file system`,
    [
      "mke2fs",
      ...["-q", "-F", "-t", "ext4", "-L", label, "-U", uuid, "-m", "0", "-d", content],
      ...["-E", `hash_seed=${uuid}`, ...journal, ...options],
      ...[file, `${sizeMib}M`],
    ],
    {
      // What mke2fs takes for the time of creation, so that equal content makes an equal image.
      env: { E2FSPROGS_FAKE_TIME: `${fixedTime}`, SOURCE_DATE_EPOCH: `${fixedTime}` },
      ...(signal === undefined ? {} : { signal }),
    },
  );
}

/** Seconds since 1970 that stand for "whenever this was built": 2025-01-01. */
export const fixedTime = 1_735_689_600;
