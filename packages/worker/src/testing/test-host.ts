import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { newSandboxId, randomHex, type SandboxId } from "@opensandbox/wire/ids.ts";
import type { AttachedSession, Exec } from "@opensandbox/wire/worker/sessions.ts";
import type { StartedSandbox, StartFrom, StartSandbox, Worker } from "@opensandbox/wire/worker/worker.ts";
import { type OpenedWorker, openWorker, type WorkerOptions } from "../open-worker.ts";

const never = new AbortController().signal;
const cache = process.env["OPENSANDBOX_DATA_DIR"] ?? "/var/lib/opensandbox";

/** The built images of this host. */
export const testImagesDirectory = process.env["OPENSANDBOX_IMAGES_DIR"] ?? join(cache, "images");

/** A worker on a data directory of its own, which uses this host's images and templates. */
export interface TestHost extends AsyncDisposable {
  readonly dataDirectory: string;
  readonly worker: Worker;
  readonly logged: { readonly level: string; readonly message: string; readonly fields?: object | undefined }[];
  /** Releases the worker and opens another one on the same directory, which adopts its machines. */
  reopen(wishes?: Pick<WorkerOptions, "adopting">): Promise<Worker>;
  /** Resumes every machine. */
  resumeAll(): Promise<void>;
  /** Starts a sandbox from the image `minimal` or from `from`. */
  start(from?: StartFrom, wishes?: Partial<StartSandbox>): Promise<StartedSandbox & { readonly id: SandboxId }>;
  /** Runs a shell command that must succeed, and returns its standard output. */
  shell(id: SandboxId, line: string, timeoutMs?: number): Promise<string>;
}

/** Uses the empty directory `directory` and keeps it. Without one, a directory is made and removed. */
export async function startTestHost(
  wishes: Partial<WorkerOptions> & { readonly directory?: string } = {},
): Promise<TestHost> {
  const { directory, ...options } = wishes;
  const dataDirectory = directory ?? (await makeDataDirectory());
  const logged: TestHost["logged"] = [];
  const open = (more: Pick<WorkerOptions, "adopting"> = {}): Promise<OpenedWorker> =>
    openTestWorker({
      dataDirectory,
      log: (level, message, fields) => logged.push({ level, message, fields }),
      ...options,
      ...more,
    });
  let opened = await open();
  return {
    dataDirectory,
    logged,
    get worker() {
      return opened.worker;
    },
    async reopen(more) {
      await opened.release();
      await opened[Symbol.asyncDispose]();
      opened = await open(more);
      return opened.worker;
    },
    resumeAll: () => opened.resumeAll(),
    async start(from, wishes) {
      const request = startRequest(from, wishes);
      return { ...(await opened.worker.startSandbox(request, () => undefined, never)), id: request.id };
    },
    async shell(id, line, timeoutMs) {
      return await shell(opened.worker, id, line, timeoutMs);
    },
    async [Symbol.asyncDispose]() {
      await opened[Symbol.asyncDispose]();
      if (directory === undefined) await rm(dataDirectory, { recursive: true });
    },
  };
}

/** Makes a directory that the users of machines can pass through. */
export async function makeDataDirectory(): Promise<string> {
  const dataDirectory = await mkdtemp(join(tmpdir(), "osb-host-"));
  await chmod(dataDirectory, 0o711);
  return dataDirectory;
}

/** Opens a worker with QEMU that uses this host's images and templates. */
export async function openTestWorker(
  options: Partial<WorkerOptions> & Pick<WorkerOptions, "dataDirectory" | "log">,
): Promise<OpenedWorker> {
  return await openWorker({
    imagesDirectory: testImagesDirectory,
    templatesDirectory: process.env["OPENSANDBOX_TEMPLATES_DIR"] ?? join(cache, "templates"),
    ...({ hypervisor: "qemu", accelerator: "auto", network: "auto", qemuProgram: "qemu-system-x86_64" } as const),
    firecrackerProgram: process.env["OPENSANDBOX_FIRECRACKER_BIN"] ?? "firecracker",
    ...({
      agentTransport: "auto",
      ephemeral: false,
      readyMachines: 0,
      templateMemoryMib: 1024,
      bootTimeoutMs: Number(process.env["OPENSANDBOX_BOOT_SECONDS"] ?? 180) * 1000,
      region: "local",
    } as const),
    ...options,
  });
}

/** A request for a sandbox from the image `minimal` or from `from`. */
export function startRequest(
  from: StartFrom = { kind: "image", image: "minimal" },
  wishes: Partial<StartSandbox> = {},
): StartSandbox {
  const shape = { vcpus: 1, memoryMib: 1024, workspaceMib: 20_480 };
  const request = { generation: 1, organizationId: "org-test", from, envs: {}, networkEnabled: true };
  return { id: newSandboxId(), ...request, ...shape, ...wishes };
}

/** A shell line that starts a process that counts for ever in /dev/shm/count. */
export const startCounting =
  "cd /dev/shm; setsid sh -c 'while :; do i=$((i+1)); echo $i >new; mv new count; sleep 0.1; done' >/dev/null 2>&1 & " +
  "until [ -e /dev/shm/count ]; do sleep 0.1; done";

/** Starts a command that is killed when the signal aborts. */
export async function startCommand(
  worker: Worker,
  id: SandboxId,
  command: Exec,
  signal: AbortSignal,
): Promise<AttachedSession> {
  const kept = { purpose: "private", keepOutput: false, whenDetached: "kill", transient: true } as const;
  return await worker.guest(id).sessions.run({ id: randomHex(8), command, ...kept }, signal);
}

/** Runs a shell command that must succeed, and returns its standard output. */
export async function shell(worker: Worker, id: SandboxId, line: string, timeoutMs = 300_000): Promise<string> {
  const command = await startCommand(worker, id, { argv: ["/bin/sh", "-c", line], timeoutMs }, never);
  const output = { stdout: "", stderr: "" };
  for await (const part of command.output) {
    if (part !== "scrollback end") output[part.pipe] += Buffer.from(part.bytes).toString();
  }
  const { exitCode, signal, timedOut } = (await command.result).end;
  if (exitCode !== 0 || signal !== 0 || timedOut) {
    const end = timedOut ? "took too long" : signal === 0 ? `exit code ${exitCode}` : `was ended by signal ${signal}`;
    throw new Error(`${line}: ${end}: ${output.stderr}`);
  }
  return output.stdout.trim();
}
