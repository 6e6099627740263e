import { startExec } from "#guest/guest-exec.ts";
import { listDirectory, readFile, statFile, writeFile } from "#guest/guest-files.ts";
import type { GuestClient } from "#guest/guest-client.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import type { Host } from "./host.ts";
import type { LiveSandbox } from "./live-sandbox.ts";
import { startSandbox } from "./start-sandbox.ts";

/** The worker's use cases over the sandboxes that run here. Disposing it stops them all. */
export class SandboxWorker implements Worker, AsyncDisposable {
  readonly id: string;
  readonly #host: Host;
  readonly #live = new Map<SandboxId, LiveSandbox>();
  readonly #starting = new Map<SandboxId, Promise<LiveSandbox>>();

  constructor(host: Host) {
    this.id = host.workerId;
    this.#host = host;
  }

  describe: Worker["describe"] = () => this.#host.description;

  startSandbox: Worker["startSandbox"] = async (request, onProgress, signal) => {
    const { id } = request;
    if (this.#live.has(id) || this.#starting.has(id)) {
      throw new SandboxError("already_exists", `${id} runs already`, { resource: "sandbox", id });
    }
    const started = startSandbox(request, this.#host, onProgress, signal);
    const sandbox = started.then((result) => result.sandbox);
    this.#starting.set(id, sandbox);
    try {
      this.#live.set(id, await sandbox);
    } finally {
      this.#starting.delete(id);
    }
    return { restoredFrom: "disk", spans: (await started).spans };
  };

  stopSandbox: Worker["stopSandbox"] = async (id) => {
    // A start that is under way is waited for; who wants it to end aborts its signal.
    const sandbox = (await this.#starting.get(id)?.catch(() => undefined)) ?? this.#live.get(id);
    if (sandbox === undefined) return;
    await sandbox[Symbol.asyncDispose]();
    this.#live.delete(id);
  };

  ended: Worker["ended"] = async (id) => await this.#sandbox(id).ended;

  exec: Worker["exec"] = async (id, request, signal) => await startExec(this.#guest(id), request, signal);

  readFile: Worker["readFile"] = async (id, path, signal) => await readFile(this.#guest(id), path, signal);

  writeFile: Worker["writeFile"] = async (id, path, content, options, signal) =>
    await writeFile(this.#guest(id), path, content, options, signal);

  statFile: Worker["statFile"] = async (id, path, signal) => await statFile(this.#guest(id), path, signal);

  listDirectory: Worker["listDirectory"] = async (id, path, signal) =>
    await listDirectory(this.#guest(id), path, signal);

  makeDirectory: Worker["makeDirectory"] = async (id, path, signal) => {
    await this.#guest(id).call(methods.makeDirectory, { path }, signal);
  };

  removeFile: Worker["removeFile"] = async (id, path, signal) => {
    await this.#guest(id).call(methods.remove, { path }, signal);
  };

  async [Symbol.asyncDispose](): Promise<void> {
    const ids = [...this.#live.keys(), ...this.#starting.keys()];
    const ends = await Promise.allSettled(ids.map((id) => this.stopSandbox(id)));
    const failures = ends.filter((end) => end.status === "rejected").map((end) => end.reason as unknown);
    if (failures.length > 0) throw new AggregateError(failures, "not every sandbox could be stopped");
  }

  #sandbox(id: SandboxId): LiveSandbox {
    const sandbox = this.#live.get(id);
    if (sandbox === undefined) {
      throw new SandboxError("not_found", `${id} does not run here`, { resource: "sandbox", id });
    }
    return sandbox;
  }

  #guest(id: SandboxId): GuestClient {
    return this.#sandbox(id).guest;
  }
}
