import { runPrivileged } from "#images/privileged.ts";

export interface Ext4 {
  readonly file: string;
  readonly sizeMib: number;
  /** The directory that becomes its content, with owners and attributes. */
  readonly content: string;
  readonly label: string;
  /** The UUID is fixed for each kind of disk, so that equal content makes equal images. */
  readonly uuid: string;
  /** The size of the journal; 0 for a read-only file system. */
  readonly journalMib: number;
  /** Added to mke2fs's `-O`, to its `-E`, and to its other options. */
  readonly features?: readonly string[];
  readonly extended?: readonly string[];
  readonly options?: readonly string[];
  readonly signal?: AbortSignal;
}

/**
 * Makes a raw sparse ext4 image. mke2fs knows that the unwritten parts of a new file read as zeros. The guest's kernel
 * therefore has no inode tables to initialise, and a copy-on-write layer stays small.
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
      // mke2fs uses these variables as the time of creation, so equal content makes an equal image.
      env: { E2FSPROGS_FAKE_TIME: `${fixedTime}`, SOURCE_DATE_EPOCH: `${fixedTime}` },
      ...(request.signal === undefined ? {} : { signal: request.signal }),
    },
  );
}

/** The time of every build in seconds since 1970, 2025-01-01: the real time must make no difference. */
export const fixedTime = 1_735_689_600;
