import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import {
  type DurableFiles,
  flushTree,
  hostFiles,
  makeDurableDirectory,
  removeTree,
  replaceFile,
} from "./durable-files.ts";
import { failpoint } from "../failpoints.ts";
import { namesIn } from "./names-in.ts";

/** The file of an immutable directory that describes it. */
export const manifestFile = "manifest.json";
const removedPrefix = ".removed-";
/** Directories that are being made carry the first; earlier versions made images under the second. */
const unfinishedPrefixes = [".unfinished-", ".building-"] as const;

/** A directory that others see once it is published. Disposing it before that removes it. */
export interface UnfinishedDirectory extends AsyncDisposable {
  readonly directory: string;
  /**
   * Writes the manifest, flushes everything and renames the directory to its final name, which is returned. When this
   * resolves, the directory survives a power cut; before that, a power cut leaves the whole directory or none.
   */
  publish(manifest: string): Promise<string>;
}

/** A directory that a dead process was making or removing. */
export interface Leftover {
  readonly path: string;
  readonly kind: "unfinished" | "removed";
  /** The label given to {@link ImmutableDirectories.createUnfinished}, or the name of a removed directory. */
  readonly label: string;
}

export interface ImmutableDirectoriesOptions {
  /** Modes of the parent, of each directory and of its manifest. */
  readonly modes: { readonly parent: number; readonly directory: number; readonly manifest: number };
  /** Removes a directory whose files may belong to other users. */
  readonly removeTree?: (directory: string) => Promise<void>;
  readonly files?: DurableFiles;
}

/**
 * Directories of immutable files below one parent, each described by a manifest. A directory is filled under a hidden
 * name and appears by one rename, after everything in it is on the disk; it disappears by a rename as well. A reader
 * therefore finds the whole directory or none, whatever ends the process or the host.
 */
export class ImmutableDirectories {
  readonly #parent: string;
  readonly #modes: ImmutableDirectoriesOptions["modes"];
  readonly #removeTree: (directory: string) => Promise<void>;
  readonly #files: DurableFiles;

  constructor(parent: string, options: ImmutableDirectoriesOptions) {
    this.#parent = parent;
    this.#modes = options.modes;
    this.#removeTree = options.removeTree ?? removeTree;
    this.#files = options.files ?? hostFiles;
  }

  pathOf(name: string): string {
    return join(this.#parent, name);
  }

  /**
   * Creates the directory `name` under a hidden name, which contains `label`. {@link leftovers} reports the label, from
   * which a caller knows the maker.
   */
  async createUnfinished(name: string, label = name): Promise<UnfinishedDirectory> {
    await makeDurableDirectory(this.#parent, this.#modes.parent, this.#files);
    const directory = join(this.#parent, `${unfinishedPrefixes[0]}${label}`);
    await this.#files.makeDirectory(directory, this.#modes.directory);
    let published = false;
    return {
      directory,
      publish: async (manifest) => {
        await failpoint("write manifest");
        await this.#files.write(join(directory, manifestFile), manifest, this.#modes.manifest);
        await flushTree(directory, this.#files);
        await failpoint("publish snapshot");
        const final = this.pathOf(name);
        await this.#files.rename(directory, final);
        published = true;
        try {
          await failpoint("flush published snapshot");
          await this.#files.flush(this.#parent);
        } catch (error) {
          await this.#removeTree(final);
          throw error;
        }
        return final;
      },
      [Symbol.asyncDispose]: async () => {
        if (!published) await this.#removeTree(directory);
      },
    };
  }

  /** The manifest of `name`; undefined when there is no such directory, empty when the directory has no manifest. */
  async readManifest(name: string): Promise<string | undefined> {
    const read = async (): Promise<string | undefined> =>
      await unlessMissing(readFile(join(this.pathOf(name), manifestFile), "utf8"));
    const inode = async (): Promise<bigint | undefined> =>
      (await unlessMissing(stat(this.pathOf(name), { bigint: true })))?.ino;
    const manifest = await read();
    if (manifest !== undefined) return manifest;
    // The directory may have been published or removed since.
    const before = await inode();
    if (before === undefined) return undefined;
    const again = await read();
    if (again !== undefined) return again;
    return (await inode()) === before ? "" : undefined;
  }

  /**
   * Adds a file and replaces the manifest by one that says the same in another way. A reader of the earlier manifest
   * still finds all its files.
   */
  async amend(name: string, manifest: string, added: { readonly from: string; readonly to: string }): Promise<void> {
    const directory = this.pathOf(name);
    await this.#files.flush(added.from);
    await this.#files.rename(added.from, join(directory, added.to));
    await this.#files.flush(directory);
    const replacement = { content: manifest, mode: this.#modes.manifest };
    await replaceFile(join(directory, manifestFile), replacement, this.#files);
  }

  /** Removes the directory `name`, in one step for its readers. */
  async remove(name: string): Promise<void> {
    const doomed = join(this.#parent, `${removedPrefix}${name}`);
    await this.#removeTree(doomed);
    try {
      await this.#files.rename(this.pathOf(name), doomed);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
      throw error;
    }
    // A power cut must not bring the name back after its files have begun to go.
    await this.#files.flush(this.#parent);
    await failpoint("empty removed directory");
    await this.#removeTree(doomed);
  }

  /** The names of all directories that have been published. */
  async names(): Promise<readonly string[]> {
    return (await this.#entries()).filter((name) => !name.startsWith("."));
  }

  /** Directories that are being made or removed, by living processes or by dead ones. */
  async leftovers(): Promise<readonly Leftover[]> {
    return (await this.#entries()).flatMap((name): Leftover[] => {
      const path = join(this.#parent, name);
      if (name.startsWith(removedPrefix)) return [{ path, kind: "removed", label: name.slice(removedPrefix.length) }];
      const prefix = unfinishedPrefixes.find((start) => name.startsWith(start));
      return prefix === undefined ? [] : [{ path, kind: "unfinished", label: name.slice(prefix.length) }];
    });
  }

  async removeLeftover({ path }: Leftover): Promise<void> {
    await this.#removeTree(path);
  }

  async #entries(): Promise<readonly string[]> {
    return await namesIn(this.#parent);
  }
}

async function unlessMissing<Value>(promise: Promise<Value>): Promise<Value | undefined> {
  try {
    return await promise;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
