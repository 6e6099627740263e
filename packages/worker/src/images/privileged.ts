import { constants } from "node:fs";
import { access, rm } from "node:fs/promises";
import { geteuid } from "node:process";
import { delimiter, join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { type CommandOptions, runCommand } from "#host/run-command.ts";

// System tools live in the sbin directories, which are missing from an ordinary user's PATH.
const path = [process.env.PATH ?? "", "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].join(delimiter);

/** The Debian package of each tool, for the message about a missing one. */
const packageOf = {
  mmdebstrap: "mmdebstrap",
  mke2fs: "e2fsprogs",
  debugfs: "e2fsprogs",
  unshare: "util-linux",
  newuidmap: "uidmap",
} as const;

type Tool = keyof typeof packageOf;

// SIGTERM must end the whole tree at once. Neither unshare (it blocks the signal) nor mmdebstrap (it waits for its
// step) does that, but when unshare is killed the kernel kills everything in the process namespace, and the mounts go
// with the mount namespace. setpriv sends the signal when this process dies, which also frees the locks of this
// process. A shell gives a background command an empty standard input, hence descriptor 3.
const endTree = `trap 'kill -KILL $! || exit' TERM; exec 3<&0; "$@" <&3 3<&- & wait $!`;

/**
 * Runs a tool that mounts and that owns files as any user, in namespaces of its own. Without root, a user namespace maps
 * root to the caller and other users to the caller's subordinate ids. After an abort no process and no mount is left.
 */
export async function runPrivileged(
  label: string,
  argv: readonly [Tool | (string & {}), ...string[]],
  options: CommandOptions = {},
): Promise<string> {
  const command = await privilegedCommand(argv);
  return await runCommand(label, command.argv, { ...options, env: { ...options.env, ...command.env } });
}

/** What {@link runPrivileged} runs, for a caller that talks to the program meanwhile. A SIGTERM ends all of it. */
export async function privilegedCommand(
  argv: readonly [Tool | (string & {}), ...string[]],
): Promise<{ readonly argv: [string, ...string[]]; readonly env: { readonly PATH: string } }> {
  const root = geteuid?.() === 0;
  for (const tool of [argv[0], "unshare", ...(root ? [] : ["newuidmap"])]) await requireTool(tool);
  const namespaces = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"];
  const identity = root ? [] : ["--map-root-user", "--map-auto"];
  const tree = ["unshare", ...identity, ...namespaces, "--", ...argv];
  return { argv: ["setpriv", "--pdeathsig", "TERM", "sh", "-c", endTree, "sh", ...tree], env: { PATH: path } };
}

/** Runs a tool from the sbin directories, without more rights than this process has. */
export async function runTool(
  label: string,
  argv: readonly [Tool, ...string[]],
  options: CommandOptions = {},
): Promise<string> {
  await requireTool(argv[0]);
  return await runCommand(label, argv, { ...options, env: { ...options.env, PATH: path } });
}

/** Removes a directory with all its files, also those of other users. Does nothing when it does not exist. */
export async function removeBuild(directory: string): Promise<void> {
  // The dying processes of an aborted build may still write, hence the retries.
  const removal = rm(directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  try {
    await removal;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (geteuid?.() === 0 || (code !== "EACCES" && code !== "EPERM")) throw error;
    await runPrivileged("remove a directory of the image cache", ["rm", "-rf", "--", directory]);
  }
}

async function requireTool(tool: string): Promise<void> {
  for (const directory of path.split(delimiter)) {
    try {
      await access(join(directory, tool), constants.X_OK);
      return;
    } catch {
      // The next directory may have it.
    }
  }
  const packageName = Object.hasOwn(packageOf, tool) ? packageOf[tool as Tool] : tool;
  throw new SandboxError("unavailable", `${tool} is missing: install the package ${packageName}`);
}
