import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Client } from "./client.ts";

/** A place where code runs. Its variables last as long as the sandbox, through hibernation, and in every fork. */
export interface CodeContext {
  readonly id: string;
  readonly language: CodeLanguage;
  readonly cwd: string;
}

export type CodeLanguage = "python" | "javascript" | "typescript" | "bash";

/** One value that code has shown, in every form that it has. `png`, `jpeg` and `pdf` are Base64. */
export interface CodeResult {
  /** Whether it is the value of the last expression. */
  readonly isMain: boolean;
  readonly text?: string;
  readonly html?: string;
  readonly markdown?: string;
  readonly svg?: string;
  readonly png?: string;
  readonly jpeg?: string;
  readonly pdf?: string;
  readonly latex?: string;
  readonly json?: unknown;
  readonly javascript?: string;
}

export interface CodeError {
  readonly name: string;
  readonly value: string;
  readonly traceback: string;
}

/** What code has done. Code that fails has an `error`; the call itself succeeds. */
export interface CodeExecution {
  readonly results: readonly CodeResult[];
  readonly stdout: string;
  readonly stderr: string;
  readonly error?: CodeError;
  /** The text of the main result. */
  readonly text?: string;
}

/** An operation that a signal can abort. */
interface Abortable {
  readonly signal?: AbortSignal;
}

export interface CodeOptions extends Abortable {
  /** Default: `python`. Every language has a context that a call without `contextId` uses. */
  readonly language?: CodeLanguage;
  readonly contextId?: string;
  readonly envs?: Readonly<Record<string, string>>;
  readonly onStdout?: (text: string) => void;
  readonly onStderr?: (text: string) => void;
  readonly onResult?: (result: CodeResult) => void;
}

export interface SandboxCode {
  /**
   * Runs code in a context that keeps its variables. When the signal aborts, the code is interrupted. The image must
   * have Python, and Node.js or bash for code in these languages.
   *
   * @example
   * const { text } = await sandbox.code.run("6 * 7");
   */
  run(code: string, options?: CodeOptions): Promise<CodeExecution>;
  createContext(
    options?: Abortable & { readonly language?: CodeLanguage; readonly cwd?: string },
  ): Promise<CodeContext>;
  listContexts(options?: Abortable): Promise<readonly CodeContext[]>;
  removeContext(id: string, options?: Abortable): Promise<void>;
}

/** The agent disk of every guest has it: images/agent/code-interpreter. */
const program = "/run/opensandbox/bin/code-interpreter";

interface Event {
  readonly type: string;
  readonly text?: string;
  readonly is_main_result?: boolean;
  readonly name?: string;
  readonly value?: string;
  readonly traceback?: string;
}

export function codeOf(client: Client, sandboxId: string): SandboxCode {
  const lines = (call: Call, signal: AbortSignal | undefined) => answerOf(client, sandboxId, call, signal);
  const json = async <T>(call: Call, signal: AbortSignal | undefined): Promise<T> => {
    let text = "";
    for await (const line of lines(call, signal)) text += line;
    return JSON.parse(text) as T;
  };
  return {
    async run(code, { language, contextId, envs, onStdout, onStderr, onResult, signal } = {}) {
      const body = { code, language, context_id: contextId, env_vars: envs };
      const done = { results: [] as CodeResult[], stdout: "", stderr: "" };
      let error: CodeError | undefined;
      for await (const line of lines({ method: "POST", path: "/execute", body }, signal)) {
        const event = JSON.parse(line) as Event;
        const { type, text = "" } = event;
        if (type === "stdout") {
          done.stdout += text;
          onStdout?.(text);
        } else if (type === "stderr") {
          done.stderr += text;
          onStderr?.(text);
        } else if (type === "result") {
          const { type: _, is_main_result: isMain = false, ...forms } = event;
          const result: CodeResult = { isMain, ...forms };
          done.results.push(result);
          onResult?.(result);
        } else if (type === "error") {
          const { name = "", value = "", traceback = "" } = event;
          error = { name, value, traceback };
        }
      }
      const text = done.results.find(({ isMain }) => isMain)?.text;
      return { ...done, ...(error === undefined ? {} : { error }), ...(text === undefined ? {} : { text }) };
    },
    async createContext({ language, cwd, signal } = {}) {
      return await json({ method: "POST", path: "/contexts", body: { language, cwd } }, signal);
    },
    async listContexts({ signal } = {}) {
      return await json({ method: "GET", path: "/contexts" }, signal);
    },
    async removeContext(id, { signal } = {}) {
      await json({ method: "DELETE", path: `/contexts/${encodeURIComponent(id)}` }, signal);
    },
  };
}

interface Call {
  readonly method: string;
  readonly path: string;
  readonly body?: unknown;
}

/** The exit code of the program when its server does not run. */
const notRunning = 69;

/** A processor that is emulated, or shared by many machines, takes seconds to start Python. */
const startSeconds = 90;

/** The lines of the interpreter's answer. Leaving the loop early ends the request, which interrupts its code. */
async function* answerOf(
  client: Client,
  sandboxId: string,
  call: Call,
  signal: AbortSignal | undefined,
): AsyncGenerator<string> {
  let { exitCode, complaint } = yield* tryCall(client, sandboxId, call, signal);
  if (exitCode === notRunning) {
    // By a command of its own: the server would end with a call that is aborted.
    const start = { cmd: program, args: ["start"], timeout: startSeconds };
    const started = await client.exec.run(sandboxId, start, signal);
    if (started.exitCode !== 0) throw failed(sandboxId, started.exitCode, started.stderr);
    ({ exitCode, complaint } = yield* tryCall(client, sandboxId, call, signal));
  }
  if (exitCode !== 0) throw failed(sandboxId, exitCode, complaint);
}

async function* tryCall(
  client: Client,
  sandboxId: string,
  { method, path, body }: Call,
  signal: AbortSignal | undefined,
): AsyncGenerator<string, { readonly exitCode: number; readonly complaint: string }> {
  const request = { cmd: program, args: ["call", method, path], stdin: true };
  const command = await client.exec.stream(sandboxId, request, signal);
  await command.write(new TextEncoder().encode(body === undefined ? "" : JSON.stringify(body)));
  await command.closeStdin();
  const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };
  let partial = "";
  let complaint = "";
  for await (const { pipe, bytes } of command.output) {
    const text = decoders[pipe].decode(bytes, { stream: true });
    if (pipe === "stderr") {
      complaint += text;
      continue;
    }
    const found = (partial + text).split("\n");
    partial = found.pop() ?? "";
    yield* found;
  }
  if (partial !== "") yield partial;
  return { exitCode: await command.exitCode, complaint };
}

function failed(sandboxId: string, exitCode: number, complaint: string): SandboxError {
  const message = `the code interpreter of sandbox ${sandboxId} failed with exit code ${exitCode}: ${complaint.trim()}`;
  return new SandboxError("unavailable", message);
}
