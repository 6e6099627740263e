import { Buffer } from "node:buffer";
import type { CallToolResult } from "@modelcontextprotocol/sdk/types.js";
import type { Client, SandboxInfo } from "@opensandbox/sdk";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { z } from "zod";

/** What the person who starts the server allows. */
export interface McpLimits {
  /** Sandboxes that exist at once. */
  readonly maxSandboxes: number;
  readonly maxMemoryMib: number;
  /** The longest time of one command. */
  readonly maxSeconds: number;
  /** Bytes of a command's output, and of a file, in one answer. */
  readonly maxOutputBytes: number;
  /** Sandboxes that exist already and may be used. Others are only those that this server has created. */
  readonly sandboxes: readonly string[];
  /** Keep what was created when the server ends. */
  readonly keep: boolean;
}

/** A tool as the protocol shows it, with its work. */
export interface McpTool<Shape extends z.ZodRawShape = z.ZodRawShape> {
  readonly title: string;
  readonly description: string;
  readonly input: Shape;
  readonly isReadOnly: boolean;
  run(input: z.infer<z.ZodObject<Shape>>, signal: AbortSignal): Promise<string>;
}

const sandboxInput = z.string().describe("The id of the sandbox, such as sb-1a2b3c4d5e6f7a8b");
const pathInput = z.string().describe("A path in the sandbox; relative to /home/sandbox");

/** The tools of one client. Disposing them deletes the sandboxes that they created, unless they are kept. */
export class McpTools implements AsyncDisposable {
  readonly #client: Client;
  readonly #limits: McpLimits;
  readonly #created = new Set<string>();
  readonly #existing: ReadonlySet<string>;
  /** Creates under way, which count. */
  #creating = 0;

  constructor(client: Client, limits: McpLimits) {
    this.#client = client;
    this.#limits = limits;
    this.#existing = new Set(limits.sandboxes);
  }

  readonly all = {
    create_sandbox: tool({
      title: "Create a sandbox",
      description: "Creates a Linux machine of its own and returns its id. Commands can run at once.",
      input: {
        image: z.string().optional().describe("default, minimal, or the name of an image of your own"),
        memoryMB: z.int().min(256).optional(),
        networkAllow: z.array(z.string()).optional().describe("The only hosts it may reach. Default: the internet"),
        secretStore: z.string().optional().describe("The name of a secret store: its secrets are used, not seen"),
      },
      isReadOnly: false,
      run: async ({ image, memoryMB, networkAllow, secretStore }, signal) => {
        const { maxMemoryMib } = this.#limits;
        if (memoryMB !== undefined && memoryMB > maxMemoryMib) {
          throw new SandboxError("quota_exceeded", `memoryMB must be at most ${maxMemoryMib}`);
        }
        return await this.#counted(async () => {
          return await this.#client.sandboxes.create(
            {
              ...(image === undefined ? {} : { image }),
              ...(memoryMB === undefined ? {} : { memoryMib: memoryMB }),
              ...(networkAllow === undefined ? {} : { egress: { allow: networkAllow } }),
              ...(secretStore === undefined ? {} : { secretStore }),
              ephemeral: !this.#limits.keep,
            },
            {},
            signal,
          );
        });
      },
    }),
    list_sandboxes: tool({
      title: "List sandboxes",
      description: "Lists the sandboxes that these tools may use, with their state.",
      input: {},
      isReadOnly: true,
      run: async (_input, signal) => {
        const ids = [...this.#existing, ...this.#created];
        const found = await Promise.all(ids.map((id) => this.#client.sandboxes.get(id, signal).catch(() => undefined)));
        return jsonOf(
          found
            .filter((each) => each !== undefined)
            .map(({ id, status, image, memoryMib }) => ({ id, status, image, memoryMib })),
        );
      },
    }),
    run_command: tool({
      title: "Run a command",
      description:
        "Runs a shell command line in a sandbox to its end. Returns exit code and output; a hibernated sandbox is woken.",
      input: {
        sandbox: sandboxInput,
        command: z.string().min(1).describe("A command line for sh"),
        cwd: z.string().optional(),
        timeoutSeconds: z.int().min(1).optional(),
      },
      isReadOnly: false,
      run: async ({ sandbox, command, cwd, timeoutSeconds }, signal) => {
        const { maxSeconds } = this.#limits;
        const timeout = Math.min(timeoutSeconds ?? maxSeconds, maxSeconds);
        const request = { cmd: "sh", args: ["-c", command], timeout, ...(cwd === undefined ? {} : { cwd }) };
        const { exitCode, stdout, stderr } = await this.#client.exec.run(this.#allowed(sandbox), request, signal);
        return jsonOf({ exitCode, stdout: this.#shortened(stdout), stderr: this.#shortened(stderr) });
      },
    }),
    read_file: tool({
      title: "Read a file",
      description: "Reads a text file of a sandbox.",
      input: { sandbox: sandboxInput, path: pathInput },
      isReadOnly: true,
      run: async ({ sandbox, path }, signal) => {
        const { maxOutputBytes } = this.#limits;
        const { content } = await this.#client.files.read(this.#allowed(sandbox), path, {}, signal);
        const parts: Uint8Array[] = [];
        let bytes = 0;
        for await (const part of content) {
          parts.push(part);
          bytes += part.length;
          if (bytes > maxOutputBytes) break;
        }
        return this.#shortened(Buffer.concat(parts).toString("utf8"));
      },
    }),
    write_file: tool({
      title: "Write a file",
      description: "Writes a text file in a sandbox, and the directories above it.",
      input: { sandbox: sandboxInput, path: pathInput, content: z.string() },
      isReadOnly: false,
      run: async ({ sandbox, path, content }, signal) => {
        await this.#client.files.write(this.#allowed(sandbox), path, content, {}, signal);
        return `wrote ${Buffer.byteLength(content)} bytes to ${path}`;
      },
    }),
    list_files: tool({
      title: "List a directory",
      description: "Lists the entries of a directory of a sandbox.",
      input: { sandbox: sandboxInput, path: pathInput },
      isReadOnly: true,
      run: async ({ sandbox, path }, signal) => {
        const entries = await this.#client.files.list(this.#allowed(sandbox), path, signal);
        return this.#shortened(entries.map(({ name, kind, size }) => `${kind}\t${size}\t${name}`).join("\n"));
      },
    }),
    preview_url: tool({
      title: "Get the address of a port",
      description: "Names a port of a sandbox, on which a server listens, and returns its host name.",
      input: { sandbox: sandboxInput, port: z.int().min(1).max(65_535) },
      isReadOnly: false,
      run: async ({ sandbox, port }, signal) => {
        return jsonOf(await this.#client.previews.create(this.#allowed(sandbox), { port }, signal));
      },
    }),
    create_checkpoint: tool({
      title: "Create a checkpoint",
      description: "Saves a sandbox with its memory and processes, and returns the id of the checkpoint. It runs on.",
      input: { sandbox: sandboxInput, name: z.string().min(1) },
      isReadOnly: false,
      run: async ({ sandbox, name }, signal) => {
        const { id } = await this.#client.checkpoints.create(this.#allowed(sandbox), { name }, signal);
        return id;
      },
    }),
    fork_checkpoint: tool({
      title: "Fork a checkpoint",
      description:
        "Creates a sandbox from a checkpoint of one of these sandboxes: an independent copy, processes included.",
      input: { sandbox: sandboxInput, checkpoint: z.string() },
      isReadOnly: false,
      run: async ({ sandbox, checkpoint }, signal) => {
        const own = await this.#client.checkpoints.list(this.#allowed(sandbox), signal);
        if (!own.some(({ id }) => id === checkpoint)) {
          const details = { resource: "checkpoint", id: checkpoint } as const;
          throw new SandboxError("not_found", `${sandbox} has no checkpoint ${checkpoint}`, details);
        }
        return await this.#counted(async () => await this.#client.checkpoints.fork(checkpoint, {}, signal));
      },
    }),
    kill_sandbox: tool({
      title: "Delete a sandbox",
      description: "Deletes a sandbox that these tools have created. Its checkpoints stay.",
      input: { sandbox: sandboxInput },
      isReadOnly: false,
      run: async ({ sandbox }, signal) => {
        if (!this.#created.has(sandbox)) throw notAllowed(sandbox);
        await this.#client.sandboxes.kill(sandbox, signal);
        this.#created.delete(sandbox);
        return `deleted ${sandbox}`;
      },
    }),
  };

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#limits.keep) return;
    const ids = [...this.#created];
    this.#created.clear();
    await Promise.allSettled(ids.map((id) => this.#client.sandboxes.kill(id)));
  }

  /** Creates a sandbox within the limit. Returns its id. */
  async #counted(create: () => Promise<SandboxInfo>): Promise<string> {
    const { maxSandboxes } = this.#limits;
    if (this.#created.size + this.#creating >= maxSandboxes) {
      throw new SandboxError("quota_exceeded", `at most ${maxSandboxes} sandboxes at once: delete one first`);
    }
    this.#creating += 1;
    try {
      const { id } = await create();
      this.#created.add(id);
      return id;
    } finally {
      this.#creating -= 1;
    }
  }

  /** @throws `not_found` for a sandbox that is neither created here nor named at the start */
  #allowed(id: string): string {
    if (this.#created.has(id) || this.#existing.has(id)) return id;
    throw notAllowed(id);
  }

  #shortened(text: string): string {
    const { maxOutputBytes } = this.#limits;
    const bytes = Buffer.from(text);
    if (bytes.length <= maxOutputBytes) return text;
    const half = Math.floor(maxOutputBytes / 2);
    const [first, last] = [bytes.subarray(0, half), bytes.subarray(bytes.length - half)];
    return `${first.toString("utf8")}\n[${bytes.length - 2 * half} bytes left out]\n${last.toString("utf8")}`;
  }
}

/** The result of a tool as the protocol has it: a failure is a result that the model can read. */
export async function resultOf(work: () => Promise<string>): Promise<CallToolResult> {
  try {
    return { content: [{ type: "text", text: await work() }] };
  } catch (error) {
    const { code, message } = asSandboxError(error);
    return { content: [{ type: "text", text: `${code}: ${message}` }], isError: true };
  }
}

function tool<Shape extends z.ZodRawShape>(definition: McpTool<Shape>): McpTool<Shape> {
  return definition;
}

function notAllowed(id: string): SandboxError<"not_found"> {
  const message = `${id} is not one of the sandboxes that these tools may use: see list_sandboxes`;
  return new SandboxError("not_found", message, { resource: "sandbox", id });
}

function jsonOf(value: unknown): string {
  return JSON.stringify(value, undefined, 1);
}
