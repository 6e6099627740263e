import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { cachedFile } from "#system/cached-file.ts";
import type { User } from "#system/users.ts";

export type Environment = Readonly<Record<string, string>>;

/** The image's own. */
export const imageEnvironment = cachedFile("/etc/environment", parseEnvironment);

/** What a command finds in its environment: the image's, the user's, the machine's, its own; the last one wins. */
export function commandEnvironment(user: User, machine: Environment, command: Environment): Environment {
  return {
    PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    LANG: "C.UTF-8",
    ...imageEnvironment(),
    HOME: user.home,
    USER: user.name,
    LOGNAME: user.name,
    SHELL: user.shell,
    ...machine,
    ...command,
  };
}

/** @throws invalid_argument for names and values that no process can have */
export function checkEnvironment(environment: Environment): void {
  for (const [name, value] of Object.entries(environment)) {
    if (name === "" || name.includes("=") || name.includes("\0") || value.includes("\0")) {
      throw new SandboxError(
        "invalid_argument",
        `the environment variable ${JSON.stringify(name)} cannot be set: names are not empty and hold no "=", ` +
          "and neither names nor values hold a zero byte",
      );
    }
  }
}

/** The environment that every command starts with. Kept in a file, so that an agent that is started again knows it. */
export class MachineEnvironment {
  readonly #file: string | undefined;
  #present: Environment;

  /** Without a file it is forgotten with the process. */
  constructor(file: string | undefined) {
    this.#file = file;
    this.#present = file === undefined ? {} : read(file);
  }

  get present(): Environment {
    return this.#present;
  }

  replace(environment: Environment): void {
    checkEnvironment(environment);
    const text = JSON.stringify(environment);
    // Most machines wake up with what they had.
    if (text === JSON.stringify(this.#present)) return;
    if (this.#file !== undefined) {
      // Secrets are among them.
      mkdirSync(dirname(this.#file), { recursive: true, mode: 0o700 });
      writeFileSync(`${this.#file}.new`, text, { mode: 0o600 });
      renameSync(`${this.#file}.new`, this.#file);
    }
    this.#present = environment;
  }
}

function read(file: string): Environment {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Environment;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return {};
    throw error;
  }
}

/** /etc/environment as pam_env(8) reads it: NAME=value lines, perhaps with `export` and quotes. */
export function parseEnvironment(text: string): Environment {
  const lines = text.matchAll(/^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)=[ \t]*(?:"([^"\n]*)"|'([^'\n]*)'|([^\n#]*))/gm);
  const entries = [...lines].map(([, name = "", double, single, plain = ""]) => [
    name,
    double ?? single ?? plain.trim(),
  ]);
  return Object.fromEntries(entries) as Environment;
}
