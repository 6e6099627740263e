import { readdir, readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { promisify } from "node:util";
import { gzip } from "node:zlib";

const compress = promisify(gzip);

const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".woff2": "font/woff2",
};

export interface PageFile {
  readonly type: string;
  readonly content: Buffer;
  /** By gzip, which browsers accept without TLS too. */
  readonly compressed: Buffer;
}

/** The files of built pages, in memory from the first request on. */
export class PageFiles {
  readonly #provide: () => Promise<string>;
  #loaded: Promise<ReadonlyMap<string, PageFile>> | undefined;

  /** @param provide the directory of the built files */
  constructor(provide: () => Promise<string>) {
    this.#provide = provide;
  }

  /** A file by its path below the directory. Undefined: there is no such file. @throws what the provider throws */
  async get(path: string): Promise<PageFile | undefined> {
    this.#loaded ??= this.#provide().then(load);
    try {
      return (await this.#loaded).get(path);
    } catch (error) {
      // The next request tries again.
      this.#loaded = undefined;
      throw error;
    }
  }
}

async function load(directory: string): Promise<ReadonlyMap<string, PageFile>> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return new Map(
    await Promise.all(
      paths.map(async (path): Promise<[string, PageFile]> => {
        const content = await readFile(path);
        const type = types[extname(path)] ?? "application/octet-stream";
        return [path.slice(directory.length + 1), { type, content, compressed: await compress(content) }];
      }),
    ),
  );
}
