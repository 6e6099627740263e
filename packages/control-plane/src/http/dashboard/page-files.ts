import { readdir, readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { dashboardPath } from "@opensandbox/wire/dashboard.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";

const compress = promisify(gzip);

const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
  ".woff2": "font/woff2",
};

interface PageFile {
  readonly type: string;
  readonly content: Buffer;
  /** By gzip, which browsers accept without TLS too. */
  readonly compressed: Buffer;
}

/** The files of the built dashboard, in memory from the first request on. */
export class PageFiles {
  readonly #directory: (() => Promise<string>) | undefined;
  #loaded: Promise<ReadonlyMap<string, PageFile>> | undefined;

  /** @param directory provides the directory of the built files. Absent: this server has no dashboard. */
  constructor(directory: (() => Promise<string>) | undefined) {
    this.#directory = directory;
  }

  /** @throws `not_found` when this server has no dashboard, `unavailable` when its files cannot be built */
  async page(): Promise<PageFile> {
    const page = (await this.#files()).get("index.html");
    if (page === undefined) throw new SandboxError("internal", "the built dashboard has no index.html");
    return page;
  }

  /** A file of the directory `assets`. Undefined: there is no such file. */
  async asset(name: string): Promise<PageFile | undefined> {
    return (await this.#files()).get(`assets/${name}`);
  }

  async #files(): Promise<ReadonlyMap<string, PageFile>> {
    if (this.#directory === undefined)
      throw new SandboxError("not_found", "this server has no dashboard", { resource: "route", id: dashboardPath });
    this.#loaded ??= load(this.#directory);
    try {
      return await this.#loaded;
    } catch (error) {
      // The next request tries again.
      this.#loaded = undefined;
      throw error;
    }
  }
}

async function load(provide: () => Promise<string>): Promise<ReadonlyMap<string, PageFile>> {
  const directory = await provide();
  const assets = await readdir(join(directory, "assets"));
  const names = ["index.html", ...assets.map((name) => `assets/${name}`)];
  return new Map(
    await Promise.all(
      names.map(async (name): Promise<[string, PageFile]> => {
        const content = await readFile(join(directory, name));
        const type = types[extname(name)] ?? "application/octet-stream";
        return [name, { type, content, compressed: await compress(content) }];
      }),
    ),
  );
}
