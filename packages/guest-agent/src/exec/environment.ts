import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { cachedFile } from "#system/cached-file.ts";
import type { User } from "#system/users.ts";
import { imageDefaults } from "./image-defaults.ts";

export type Environment = Readonly<Record<string, string>>;

/** The variables of the image. */
export const imageEnvironment = cachedFile("/etc/environment", parseEnvironment);

/** The environment of a command: variables of image, user, machine and command, the last one wins. */
export function commandEnvironment(user: User, machine: Environment, command: Environment): Environment {
  return {
    PATH: `${userPath(user)}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
    LANG: "C.UTF-8",
    ...imageDefaults().environment,
    ...imageEnvironment(),
    HOME: user.home,
    USER: user.name,
    LOGNAME: user.name,
    SHELL: user.shell,
    ...machine,
    ...command,
  };
}

/** Where pip, npm, cargo and go put the programs that a user installs. */
function userPath({ home }: Pick<User, "home">): string {
  return ["/.local/bin", "/.cargo/bin", "/go/bin"].map((directory) => `${home}${directory}:`).join("");
}

/** @throws invalid_argument for names and values that the kernel cannot pass to a process */
export function checkEnvironment(environment: Environment): void {
  for (const [name, value] of Object.entries(environment)) {
    if (name === "" || name.includes("=") || name.includes("\0") || value.includes("\0")) {
      throw new SandboxError(
        "invalid_argument",
        `the environment variable ${JSON.stringify(name)} cannot be set: a name must not be empty or contain "=", ` +
          "and neither names nor values may contain a zero byte",
      );
    }
  }
}

/** The environment that every command starts with, kept in a file for an agent that is restarted. */
export class MachineEnvironment {
  readonly #file: string | undefined;
  #present: Environment;

  /** Without a file the environment ends with the process. */
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
    // Most machines wake with the environment they had.
    if (text === JSON.stringify(this.#present)) return;
    if (this.#file !== undefined) {
      // Readable by root alone: the variables may be secrets.
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

/** Parses /etc/environment as pam_env(8) does: NAME=value lines, with optional `export` and quotes. */
export function parseEnvironment(text: string): Environment {
  const lines = text.matchAll(/^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)=[ \t]*(?:"([^"\n]*)"|'([^'\n]*)'|([^\n#]*))/gm);
  const entries = [...lines].map(([, name = "", double, single, plain = ""]) => [
    name,
    double ?? single ?? plain.trim(),
  ]);
  return Object.fromEntries(entries) as Environment;
}
