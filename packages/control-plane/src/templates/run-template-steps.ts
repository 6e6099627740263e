import { posix } from "node:path";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import type { GuestFiles } from "@opensandbox/wire/worker/files.ts";
import type { Exec } from "@opensandbox/wire/worker/sessions.ts";
import { chunksOf, runBuildCommand } from "#images/builder.ts";
import { actionsOf } from "#images/step-actions.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { CopyStep, TemplateStep } from "./template.ts";
import type { TemplateFiles } from "./template-files.ts";

/** What the steps so far have set. */
export interface Surroundings {
  /** Absent: the image's user. */
  readonly user?: string;
  /** Absent: the image's working directory. */
  readonly workdir?: string;
  readonly envs: Readonly<Record<string, string>>;
}

export interface RunTemplateSteps {
  readonly sandbox: Pick<Sandbox, "id">;
  readonly files: TemplateFiles;
  readonly template: { readonly organizationId: string; readonly templateId: string };
}

/** Runs one step of a template in its builder. @returns what the next step starts with */
export async function runTemplateStep(
  { worker }: Pick<SandboxContext, "worker">,
  { sandbox, files, template }: RunTemplateSteps,
  { step, surroundings }: { readonly step: TemplateStep; readonly surroundings: Surroundings },
  say: (message: string) => void,
  signal: AbortSignal,
): Promise<Surroundings> {
  const { sessions, files: guestFiles } = worker.guest(sandbox.id);
  const run = (command: Exec): Promise<void> => runBuildCommand(sessions, command, say, signal);
  switch (step.type) {
    case "command":
      await run(commandIn(step.user === undefined ? surroundings : { ...surroundings, user: step.user }, step.command));
      return surroundings;
    case "user":
      await run({ argv: ["true"], user: step.name, cwd: "/" });
      return { ...surroundings, user: step.name };
    case "copy": {
      const archive = `/tmp/osb-copy-${randomHex(8)}.tar`;
      await guestFiles.write(archive, await files.read({ ...template, hash: step.filesHash }), {}, signal);
      await run(copyCommand(step, surroundings, archive));
      return surroundings;
    }
    case "workdir": {
      const workdir = posix.resolve(surroundings.workdir ?? "/", step.args.path);
      await run({ argv: ["/bin/sh", "-c", makeDirectory, "sh", workdir, surroundings.user ?? ""], user: "root" });
      return { ...surroundings, workdir };
    }
    case "run":
      for (const command of step.args.commands) await run(commandIn(surroundings, command));
      return surroundings;
    case "env":
    case "apt_install":
    case "pip_install":
    case "add_file":
    case "add_dir":
      for (const action of actionsOf(step, surroundings.workdir)) {
        if (action.kind === "directory") await guestFiles.makeDirectory(action.path, signal);
        else if (action.kind === "file") await guestFiles.write(action.path, chunksOf(action.content), {}, signal);
        else await run({ ...surroundingsOf(surroundings), ...action.command });
      }
      return step.type === "env"
        ? { ...surroundings, envs: { ...surroundings.envs, ...step.args.vars } }
        : surroundings;
  }
}

/** A command of the template's author, for a login shell. */
export function commandIn(surroundings: Surroundings, command: string): Exec {
  return { ...surroundingsOf(surroundings), argv: ["/bin/sh", "-c", loginShell, "sh", command] };
}

/** Makes the guest agent use what the steps have set for every later command that names nothing else. */
export async function keepSurroundings(
  { worker }: Pick<SandboxContext, "worker">,
  { id }: Pick<Sandbox, "id">,
  { user, workdir, envs }: Surroundings,
  signal: AbortSignal,
): Promise<void> {
  if (user === undefined && workdir === undefined && Object.keys(envs).length === 0) return;
  // A fake machine has the files of this host.
  if (worker.description.hypervisor === "fake") return;
  const { sessions, files } = worker.guest(id);
  const known = await imageDefaults(files, signal);
  const env = (Array.isArray(known["env"]) ? (known["env"] as readonly unknown[]) : []).filter(
    (entry) => typeof entry === "string" && !Object.hasOwn(envs, entry.split("=", 1)[0] ?? ""),
  );
  const added = Object.entries(envs).map(([name, value]) => `${name}=${value}`);
  const defaults = {
    ...known,
    env: [...env, ...added],
    user: user ?? known["user"],
    workdir: workdir ?? known["workdir"],
  };
  const argv = ["/bin/sh", "-c", replaceFile, "sh", defaultsFile, JSON.stringify(defaults)] as const;
  await runBuildCommand(sessions, { argv: [...argv], user: "root", cwd: "/" }, () => {}, signal);
}

/** The guest agent reads this file: `guest-agent/src/exec/image-defaults.ts`. */
const defaultsFile = "/etc/opensandbox-image.json";

/** A guest writes the file, so no more of it is read than this. */
const maxDefaultsBytes = 2 ** 20;

async function imageDefaults(files: GuestFiles, signal: AbortSignal): Promise<Readonly<Record<string, unknown>>> {
  let text = "";
  try {
    const { content } = await files.read(defaultsFile, { length: maxDefaultsBytes }, signal);
    for await (const chunk of content) text += Buffer.from(chunk).toString("latin1");
    const value: unknown = JSON.parse(Buffer.from(text, "latin1").toString("utf8"));
    return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
  } catch (error) {
    // Images with a recipe have no such file.
    if (isSandboxError(error, "not_found") || error instanceof SyntaxError) return {};
    throw error;
  }
}

function surroundingsOf({ user, workdir, envs }: Surroundings): Omit<Exec, "argv"> {
  return { envs, ...(user === undefined ? {} : { user }), ...(workdir === undefined ? {} : { cwd: workdir }) };
}

const loginShell = 'if command -v bash >/dev/null; then exec bash -l -c "$1"; fi; exec sh -l -c "$1"';

const makeDirectory = `set -e
[ -d "$1" ] || { mkdir -p -- "$1"; [ -z "$2" ] || chown "$2" -- "$1"; }`;

/** The command that copies from an uploaded archive, which it removes. Pure. */
export function copyCommand(
  step: CopyStep,
  { user, workdir }: Pick<Surroundings, "user" | "workdir">,
  archive: string,
): Exec {
  const source = posix.normalize(step.source).replace(/^(?:\.?\/)+/, "");
  if (source === ".." || source.startsWith("../")) {
    throw new SandboxError("invalid_argument", `COPY ${step.source}: the source leads out of the uploaded files`);
  }
  const isDirectory = step.destination.endsWith("/") || step.destination === ".";
  const destination = posix.resolve(workdir ?? "/", step.destination);
  const owner = step.user ?? user ?? "root";
  return {
    argv: [
      ...(["/bin/sh", "-c", copyScript, "sh"] as const),
      ...[archive, source === "." ? "" : source.replace(/\/$/, ""), destination, isDirectory ? "yes" : ""],
      ...[owner.includes(":") ? owner : `${owner}:`, step.mode ?? ""],
    ],
    user: "root",
    cwd: "/",
  };
}

/**
 * Unpacks an archive and copies what the pattern matches as a Dockerfile's COPY does: the contents of directories, and
 * files by their names or, one file alone, under the name of the destination. `**` copies everything below the part of
 * the pattern before it.
 */
const copyScript = `set -e
archive=$1 pattern=$2 destination=$3 into=$4 owner=$5 mode=$6
files=$(mktemp -d /tmp/osb-copy-XXXXXX)
trap 'rm -rf "$files" "$archive"' EXIT
if [ "$(od -An -tx1 -N2 "$archive" | tr -d ' \\n')" = 1f8b ]; then gunzip -c "$archive" | tar -xf - -C "$files"
else tar -xf "$archive" -C "$files"; fi
chown -hR "$owner" "$files"
[ -z "$mode" ] || chmod -R "$mode" "$files"
cd "$files"
case $pattern in
  *'**'*) pattern=\${pattern%%'**'*}; pattern=\${pattern%/} ;;
esac
IFS=
if [ -z "$pattern" ]; then set -- .; else set -- $pattern; fi
[ -e "$1" ] || [ -h "$1" ] || { echo "COPY: no file matches" >&2; exit 1; }
enter() {
  [ -d "$1" ] || { mkdir -p -- "$1"; chown "$owner" -- "$1"; }
}
if [ $# -gt 1 ] || [ -d "$destination" ]; then into=yes; fi
for match; do
  if [ -d "$match" ] && [ ! -h "$match" ]; then
    enter "$destination"
    cp -a "$match/." "$destination/"
  elif [ -n "$into" ]; then
    enter "$destination"
    cp -a "$match" "$destination/"
  else
    enter "$(dirname "$destination")"
    cp -a "$match" "$destination"
  fi
done`;

const replaceFile = `set -e
umask 022
printf '%s\\n' "$2" >"$1.new"
mv "$1.new" "$1"`;
