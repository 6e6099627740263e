import { execFile } from "node:child_process";
import { globSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const root = resolve(import.meta.dirname, "../..");
const node = [process.execPath, "--disable-warning=ExperimentalWarning"] as const;

/** The programs of a guide take seconds, and much longer on a crowded host and in machines without KVM. */
const runMs = 600_000;

/** How the programs of a language run. Other blocks, such as `console`, show what a person sees. */
const languages = {
  ts: node,
  sh: ["bash", "-euo", "pipefail"],
  python: ["python3"],
} as const satisfies Readonly<Record<string, readonly [string, ...string[]]>>;

/** A block of a guide: a whole program. */
export interface Program {
  readonly guide: string;
  readonly language: keyof typeof languages;
  readonly code: string;
  /** Whether it captures memory, which machines of the fake hypervisor do not have. */
  readonly captures: boolean;
}

/** The programs of all guides, in their order. */
export function programsOfGuides(): readonly Program[] {
  return globSync("docs/guides/*.md", { cwd: root })
    .toSorted()
    .flatMap((file) => {
      const blocks = readFileSync(join(root, file), "utf8").matchAll(/^```(\w+)\n(.*?)^```$/gms);
      return [...blocks].flatMap(([, language = "", code = ""]) => {
        if (!Object.hasOwn(languages, language)) return [];
        const captures = /\.(?:hibernate|fork|restore)\(|^osb (?:hibernate|fork)/m.test(code);
        return [{ guide: basename(file, ".md"), language: language as Program["language"], code, captures }];
      });
    });
}

/** A place where programs run as those of a reader, who has installed the SDK and the command line. */
export class Reader implements AsyncDisposable {
  readonly #directory: string;
  readonly #env: Readonly<Record<string, string>>;
  #runs = 0;

  private constructor(directory: string, env: Readonly<Record<string, string>>) {
    this.#directory = directory;
    this.#env = env;
  }

  static async of({ url, apiKey }: { readonly url: string; readonly apiKey: string }): Promise<Reader> {
    const directory = await mkdtemp(join(tmpdir(), "osb-guides-"));
    await mkdir(join(directory, "node_modules/@opensandbox"), { recursive: true });
    await symlink(join(root, "packages/sdk"), join(directory, "node_modules/@opensandbox/sdk"));
    await writeFile(join(directory, "package.json"), `{ "type": "module" }`);
    await mkdir(join(directory, "bin"));
    const osb = ["#!/bin/sh", `exec ${node.join(" ")} ${join(root, "packages/cli/src/main.ts")} "$@"`, ""];
    await writeFile(join(directory, "bin/osb"), osb.join("\n"), { mode: 0o755 });
    return new Reader(directory, {
      PATH: `${directory}/bin:${process.env["PATH"]}`,
      HOME: directory,
      ...{ OPENSANDBOX_API_URL: url, OPENSANDBOX_API_KEY: apiKey },
      ...{ E2B_API_URL: url, E2B_SANDBOX_URL: url, E2B_API_KEY: apiKey },
    });
  }

  /** Runs programs of one language, one after the other, and returns their output. @throws when one fails */
  async run(language: Program["language"], programs: readonly string[]): Promise<string> {
    const place = join(this.#directory, `run-${++this.#runs}`);
    await mkdir(place);
    const names = programs.map((_code, index) => `program-${index + 1}.${language}`);
    for (const [index, name] of names.entries()) await writeFile(join(place, name), programs[index] ?? "");
    // TypeScript shares a process: its start takes longer than a program.
    const all = language === "ts" ? ["all.ts"] : names;
    await writeFile(join(place, "all.ts"), names.map((name) => `await import("./${name}");\n`).join(""));
    let output = "";
    for (const name of all) {
      const [executable, ...options] = languages[language];
      const ended = await run(executable, [...options, name], { cwd: place, timeout: runMs, env: this.#env });
      output += ended.stdout;
    }
    return output;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true });
  }
}
