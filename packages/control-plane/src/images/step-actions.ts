import { posix } from "node:path";
import type { ImageStep } from "@opensandbox/wire/public/images.ts";
import type { Exec } from "@opensandbox/wire/worker/sessions.ts";

/** One action in the builder's sandbox. */
export type StepAction =
  | { readonly kind: "command"; readonly command: Exec }
  | { readonly kind: "file"; readonly path: string; readonly content: Uint8Array }
  | { readonly kind: "directory"; readonly path: string };

/** The actions of a step, in order. Commands run in the directory of the last `workdir` step. Pure. */
export function actionsOf(step: ImageStep, workdir: string | undefined): StepAction[] {
  switch (step.type) {
    case "apt_install":
      return [
        asRoot('apt-get update && exec apt-get install -y -o Dpkg::Use-Pty=0 "$@"', step.args.packages, {
          DEBIAN_FRONTEND: "noninteractive",
        }),
      ];
    case "pip_install":
      return [asRoot('exec python3 -m pip install --no-cache-dir "$@"', step.args.packages)];
    case "run": {
      const cwd = workdir === undefined ? {} : { cwd: workdir };
      return step.args.commands.map((text) => ({ kind: "command", command: { argv: ["bash", "-c", text], ...cwd } }));
    }
    case "env": {
      const vars = Object.entries(step.args.vars);
      return [
        asRoot(append("/etc/environment"), vars.map(environmentLine)),
        asRoot(append("/etc/profile.d/osb-image.sh"), vars.map(shellLine)),
      ];
    }
    case "workdir":
      return [{ kind: "directory", path: step.args.path }];
    case "add_file": {
      const { path, content, encoding } = step.args;
      return [{ kind: "file", path, content: Buffer.from(content, encoding === "base64" ? "base64" : "utf8") }];
    }
    case "add_dir": {
      const { path, files } = step.args;
      const contents = files.map(({ relativePath, content }) => ({
        kind: "file" as const,
        path: posix.join(path, relativePath),
        content: Buffer.from(content, "base64"),
      }));
      return [{ kind: "directory", path }, ...contents];
    }
  }
}

/** Runs a fixed script. Text of the step comes as arguments, so that the shell does not interpret it. */
function asRoot(script: string, args: readonly string[], envs: Record<string, string> = {}): StepAction {
  return { kind: "command", command: { argv: ["sh", "-c", script, "sh", ...args], user: "root", envs } };
}

/** Appends lines to a file whose last line may lack its newline. */
function append(file: string): string {
  return `[ -z "$(tail -c1 ${file} 2>/dev/null)" ] || echo >>${file}; printf '%s\\n' "$@" >>${file}`;
}

function environmentLine([name, value]: readonly [string, string]): string {
  return value.includes('"') ? `${name}='${value}'` : `${name}="${value}"`;
}

function shellLine([name, value]: readonly [string, string]): string {
  return `export ${name}='${value.replaceAll("'", "'\\''")}'`;
}
