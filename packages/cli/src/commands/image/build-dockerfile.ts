import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join, relative, resolve } from "node:path";
import dockerignore from "@balena/dockerignore";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Client } from "@opensandbox/sdk";
import type { Context } from "../../context.ts";
import { collectOutput, type CommandOutput } from "#commands/exec/command-output.ts";
import { streamCommand } from "#commands/exec/stream-command.ts";
import { copyIn } from "#copy/copy-in.ts";
import { megabytes } from "#output/megabytes.ts";
import type { Progress } from "#output/progress.ts";
import { writeTo } from "#output/write-to.ts";
import { openServer } from "#server/open-server.ts";

export interface DockerfileBuild {
  /** The name of the image. */
  readonly tag: string;
  /** The directory whose files the Dockerfile copies. */
  readonly contextDirectory: string;
  /** The Dockerfile. Absent: the one in the directory. */
  readonly file: string | undefined;
  readonly buildArgs: Readonly<Record<string, string>>;
  readonly target: string | undefined;
}

// Its types describe an ES module; the package exports the function itself.
const parserOfIgnoreFiles = dockerignore as unknown as typeof dockerignore.default;

/** The sandbox ends by itself when this command is killed. */
const abandonedSeconds = 300;
const deleteTimeoutMs = 30_000;

// The script's arguments: the Dockerfile and the options of buildah. The store lies on the root file system, since the
// kernel's overlays need one with all attributes, and everything else on the workspace.
const script = `set -e
modprobe overlay
mkdir -p /etc/containers /workspace/tmp
printf '%s\n' 'unqualified-search-registries = ["docker.io"]' 'short-name-mode = "permissive"' >/etc/containers/registries.conf
export TMPDIR=/workspace/tmp BUILDAH_ISOLATION=chroot
file=$1
shift
buildah build --network=host --format=oci --layers=false --file "$file" --tag built "$@" /workspace/context
buildah push --quiet built oci-archive:/workspace/image.tar:built`;

/**
 * Builds a Dockerfile in a new sandbox of the image \`builder\`, and makes an image of this host of the result.
 * @returns the exit code of the build
 */
export async function buildDockerfile(
  { tag, contextDirectory, file, buildArgs, target }: DockerfileBuild,
  context: Context,
): Promise<number> {
  const { host, globals, print, note, signal } = context;
  const dockerfile = resolve(file ?? join(contextDirectory, "Dockerfile"));
  const text = await readFile(dockerfile).catch((cause: unknown) => {
    const message = `cannot read the Dockerfile: ${(cause as Error).message}`;
    throw new SandboxError("invalid_argument", message, { cause });
  });
  using progress = context.progress();
  await using server = await openServer(context, progress);
  const { client } = server;
  await using sandbox = await builderOf(client, progress, signal);
  const copied = { files: 0, directories: 0, links: 0, bytes: 0 };
  const onProgress = (): void => progress.report(`copying ${copied.files} files, ${megabytes(copied.bytes)}`);
  const isExcluded = await exclusionsOf(contextDirectory, dockerfile);
  await copyIn(
    { from: contextDirectory, id: sandbox.id, to: "/workspace/context", several: false },
    { client, copied, note, onProgress, isExcluded },
    signal,
  );
  await client.files.write(sandbox.id, "/workspace/Dockerfile", text, {}, signal);
  progress.pause();

  const options = [
    ...Object.entries(buildArgs).map(([name, value]) => `--build-arg=${name}=${value}`),
    ...(target === undefined ? [] : [`--target=${target}`]),
  ];
  const request = { cmd: "sh", args: ["-c", script, "sh", "/workspace/Dockerfile", ...options], user: "root" };
  const collected = globals.json ? collectOutput() : undefined;
  const output = collected ?? logTo(host.stderr);
  const command = { client, sandboxId: sandbox.id, request, stdin: undefined, output };
  const exitCode = await streamCommand(command, host.interrupts);
  if (exitCode !== 0) {
    if (collected !== undefined) await print("", { exitCode, ...collected.collected() });
    return exitCode;
  }

  const directory = await mkdtemp(join(tmpdir(), "osb-build-"));
  try {
    const archive = join(directory, "image.tar");
    progress.report("fetching the image");
    const { content } = await client.files.read(sandbox.id, "/workspace/image.tar", {}, signal);
    await writeFile(archive, content, { signal });
    const { loadImage, readConfig } = await import("@opensandbox/server");
    const onLoading = ({ step }: { readonly step: string }): void => progress.report(step);
    const loaded = await loadImage(readConfig(host.env), { file: archive, name: tag }, onLoading, signal);
    progress.pause();
    await print(`built ${loaded.name}: ${megabytes(loaded.bytes)} on disk`, { exitCode, ...loaded });
    return 0;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function builderOf(
  client: Client,
  progress: Progress,
  signal: AbortSignal,
): Promise<AsyncDisposable & { readonly id: string }> {
  progress.report("starting the builder");
  const request = { image: "builder", memoryMib: 2048, idleTimeoutSeconds: abandonedSeconds, ephemeral: true };
  const { id } = await client.sandboxes.create(request, { onProgress: (step) => progress.report(step) }, signal);
  return {
    id,
    async [Symbol.asyncDispose]() {
      await client.sandboxes.kill(id, AbortSignal.timeout(deleteTimeoutMs));
    },
  };
}

/** What .dockerignore leaves out. buildah applies the same file; this one spares the transfer. */
async function exclusionsOf(
  directory: string,
  dockerfile: string,
): Promise<(path: string, isDirectory: boolean) => boolean> {
  const own = await textOf(`${dockerfile}.dockerignore`);
  const text = own ?? (await textOf(join(directory, ".dockerignore"))) ?? "";
  const ignored = parserOfIgnoreFiles({ ignorecase: false }).add(text);
  // An exception may name a file of a directory that is left out otherwise.
  const hasExceptions = /^\s*!/m.test(text);
  return (path, isDirectory) => {
    if (isDirectory && hasExceptions) return false;
    return basename(path) !== ".dockerignore" && ignored.ignores(relative(resolve(directory), resolve(path)));
  };
}

async function textOf(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Output of the build is a log, whatever pipe it comes from. */
function logTo(stderr: Context["host"]["stderr"]): CommandOutput {
  return {
    write: async (_, bytes, signal) => await writeTo(stderr, bytes, signal),
    report: (message) => void stderr.write(`osb: ${message}\n`),
  };
}
