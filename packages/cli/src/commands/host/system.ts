import { spawn } from "node:child_process";
import {
  chmod,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  rmdir,
  symlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** Program and arguments; no shell is involved. */
export type Argv = readonly [string, ...string[]];

export interface Ran {
  /** 127 when the program is not installed, as in shells. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end with empty standard input. Never rejects. */
export type Runner = (argv: Argv) => Promise<Ran>;

/** The host as the steps see it. Paths are absolute; a test places them below its own directory. */
export class System {
  readonly #root: string;
  readonly #runner: Runner;

  constructor({ root = "/", runner = runProgram }: { readonly root?: string; readonly runner?: Runner } = {}) {
    this.#root = root;
    this.#runner = runner;
  }

  /** Runs a program that changes nothing. */
  async ask(...argv: Argv): Promise<Ran> {
    return await this.#runner(argv);
  }

  /**
   * Runs a program that changes the host, and returns its standard output.
   * @throws `unavailable` with the end of standard error when it fails
   */
  async change(...argv: Argv): Promise<string> {
    const { code, stdout, stderr } = await this.#runner(argv);
    if (code === 0) return stdout;
    const problem = code === 127 && stderr === "" ? "is not installed" : `exited with ${code}\n${lastLines(stderr)}`;
    throw new SandboxError("unavailable", `${argv.join(" ")}: ${argv[0]} ${problem}`.trimEnd());
  }

  /** The text of a file; undefined when it does not exist. */
  async read(path: string): Promise<string | undefined> {
    return await readFile(this.#below(path), "utf8").catch(absent);
  }

  async exists(path: string): Promise<boolean> {
    return (await lstat(this.#below(path)).catch(absent)) !== undefined;
  }

  /** The permission bits of a file; undefined when it does not exist. */
  async modeOf(path: string): Promise<number | undefined> {
    const stats = await lstat(this.#below(path)).catch(absent);
    return stats === undefined ? undefined : stats.mode & 0o7777;
  }

  /** The target of a symbolic link; undefined when the path is missing or no link. */
  async linkTarget(path: string): Promise<string | undefined> {
    return await readlink(this.#below(path)).catch((error: NodeJS.ErrnoException) => {
      return error.code === "EINVAL" ? undefined : absent(error);
    });
  }

  /** The names in a directory; none when it does not exist. */
  async entries(path: string): Promise<readonly string[]> {
    return (await readdir(this.#below(path)).catch(absent)) ?? [];
  }

  /** Replaces a file at once: readers see the old content or the new one. Makes missing directories. */
  async write(path: string, content: string, mode = 0o644): Promise<void> {
    const file = this.#below(path);
    await mkdir(dirname(file), { recursive: true });
    const unfinished = `${file}.opensandbox-new`;
    await writeFile(unfinished, content, { mode });
    await chmod(unfinished, mode);
    await rename(unfinished, file);
  }

  async makeDirectory(path: string, mode: number): Promise<void> {
    await mkdir(this.#below(path), { recursive: true, mode });
  }

  async link(path: string, target: string): Promise<void> {
    const file = this.#below(path);
    await mkdir(dirname(file), { recursive: true });
    await symlink(target, file);
  }

  /** Removes a file or a symbolic link, if it exists. */
  async remove(path: string): Promise<void> {
    await rm(this.#below(path), { force: true });
  }

  /** Removes a directory if it is empty. */
  async removeEmpty(path: string): Promise<void> {
    await rmdir(this.#below(path)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOTEMPTY" && error.code !== "ENOENT" && error.code !== "EBUSY") throw error;
    });
  }

  #below(path: string): string {
    return join(this.#root, path);
  }
}

function absent(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT" && error.code !== "ENOTDIR") throw error;
}

/** An error message quotes this many lines from the end of standard error. */
const quotedLines = 12;

function lastLines(text: string): string {
  return text.trimEnd().split("\n").slice(-quotedLines).join("\n");
}

async function runProgram([file, ...args]: Argv): Promise<Ran> {
  const child = spawn(file, args, {
    stdio: ["ignore", "pipe", "pipe"],
    // Messages of programs are parsed and quoted in one language.
    env: Object.assign({ ...process.env }, { LC_ALL: "C" }),
  });
  const [stdout, stderr] = [collect(child.stdout), collect(child.stderr)];
  const { promise, resolve } = Promise.withResolvers<Ran>();
  child.once("error", (error: NodeJS.ErrnoException) =>
    resolve({ code: 127, stdout: "", stderr: error.code === "ENOENT" ? "" : error.message }),
  );
  child.once("close", (code) => resolve({ code: code ?? 128, stdout: stdout(), stderr: stderr() }));
  return await promise;
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  return () => Buffer.concat(chunks).toString("utf8");
}
