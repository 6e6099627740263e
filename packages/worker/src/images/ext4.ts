import { runPrivileged } from "#images/privileged.ts";

export interface Ext4 {
  readonly file: string;
  readonly sizeMib: number;
  /** The directory that becomes its content, owners and attributes included. */
  readonly content: string;
  readonly label: string;
  /** The same content always makes the same image, so it can have a fixed identity. */
  readonly uuid: string;
  /** 0 for a file system that is only read. */
  readonly journalMib: number;
  /** More of mke2fs's `-O`, `-E` and other options. */
  readonly features?: readonly string[];
  readonly extended?: readonly string[];
  readonly options?: readonly string[];
  readonly signal?: AbortSignal;
}

/**
 * Makes a raw sparse ext4 image. What mke2fs leaves unwritten in a new file reads as zeros, which it knows, so the
 * guest's kernel has no inode tables to initialise later and a copy-on-write layer stays small.
 */
export async function makeExt4(request: Ext4): Promise<void> {
  const { file, sizeMib, content, label, uuid, journalMib, features = [], extended = [], options = [] } = request;
  const allFeatures = [...(journalMib === 0 ? ["^has_journal"] : []), ...features];
  await runPrivileged(
    `make the ${label} file system`,
    [
      ...(["mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-U", uuid, "-m", "0", "-d", content] as const),
      ...["-E", [`hash_seed=${uuid}`, "lazy_journal_init=1", ...extended].join(",")],
      ...(journalMib === 0 ? [] : ["-J", `size=${journalMib}`]),
      ...(allFeatures.length === 0 ? [] : ["-O", allFeatures.join(",")]),
      ...[...options, file, `${sizeMib}M`],
    ],
    {
      // What mke2fs takes for the time of creation, so that equal content makes an equal image.
      env: { E2FSPROGS_FAKE_TIME: `${fixedTime}`, SOURCE_DATE_EPOCH: `${fixedTime}` },
      ...(request.signal === undefined ? {} : { signal: request.signal }),
    },
  );
}

/** Seconds since 1970 that stand for "whenever this was built": 2025-01-01. */
export const fixedTime = 1_735_689_600;
