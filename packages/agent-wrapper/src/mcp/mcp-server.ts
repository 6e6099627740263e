import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { asText, isRecord, type McpServerSettings } from "../command.ts";
import { inputLines, tooLong } from "../input-lines.ts";
import { killTree } from "../tools/kill-tree.ts";
import type { Tool, ToolResult } from "../tools/tool.ts";

const protocolVersion = "2025-06-18";
const startTimeoutMs = 30_000;

export interface McpPlace {
  readonly cwd: string;
  readonly environment: NodeJS.ProcessEnv;
}

/** A running Model Context Protocol server: a program that offers tools on its standard input and output. */
export class McpServer implements Disposable {
  readonly tools: readonly Tool[];
  readonly #line: McpLine;

  private constructor(line: McpLine, tools: readonly Tool[]) {
    this.#line = line;
    this.tools = tools;
  }

  /** @throws when the program cannot be started or does not answer as an MCP server within 30 s */
  static async start(name: string, settings: McpServerSettings, place: McpPlace): Promise<McpServer> {
    const line = new McpLine(settings, place);
    try {
      const signal = AbortSignal.timeout(startTimeoutMs);
      const client = { name: "claude-agent-wrapper", version: "1" };
      await line.request("initialize", { protocolVersion, capabilities: {}, clientInfo: client }, signal);
      line.notify("notifications/initialized");
      return new McpServer(line, await toolsOf(name, line, signal));
    } catch (error) {
      line.close();
      throw error;
    }
  }

  get isRunning(): boolean {
    return this.#line.isOpen;
  }

  [Symbol.dispose](): void {
    this.#line.close();
  }
}

async function toolsOf(server: string, line: McpLine, signal: AbortSignal): Promise<Tool[]> {
  const tools: Tool[] = [];
  let cursor: unknown;
  do {
    const page = await line.request("tools/list", cursor === undefined ? {} : { cursor }, signal);
    for (const tool of Array.isArray(page["tools"]) ? page["tools"].filter(isRecord) : []) {
      const { name, description, inputSchema } = tool;
      if (typeof name !== "string") continue;
      tools.push({
        name: `mcp__${server}__${name}`,
        description: typeof description === "string" ? description : "",
        input_schema: isRecord(inputSchema) ? inputSchema : { type: "object" },
        run: async (input, place) =>
          resultOf(await line.request("tools/call", { name, arguments: input }, place.signal)),
      });
    }
    cursor = page["nextCursor"];
  } while (cursor !== undefined && cursor !== null);
  return tools;
}

function resultOf(result: Record<string, unknown>): ToolResult {
  const content = Array.isArray(result["content"]) ? result["content"].filter(isRecord) : [];
  const text = content
    .map((part) => (part["type"] === "text" ? String(part["text"]) : JSON.stringify(part)))
    .join("\n");
  return { text, isError: result["isError"] === true };
}

/** JSON-RPC with one message per line. */
class McpLine {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #waiting = new Map<number, PromiseWithResolvers<Record<string, unknown>>>();
  #lastId = 0;
  #failure: Error | undefined;

  constructor({ command, args = [], env = {} }: McpServerSettings, { cwd, environment }: McpPlace) {
    // The server shares this program's standard error.
    this.#child = spawn(command, args, { cwd, env: { ...environment, ...env }, stdio: ["pipe", "pipe", "inherit"] });
    this.#child.on("error", (error) => this.#fail(error));
    this.#child.stdin.on("error", (error) => this.#fail(error));
    void this.#read();
  }

  get isOpen(): boolean {
    return this.#failure === undefined;
  }

  async request(method: string, params: object, signal: AbortSignal): Promise<Record<string, unknown>> {
    if (this.#failure !== undefined) throw this.#failure;
    this.#lastId += 1;
    const id = this.#lastId;
    const answer = Promise.withResolvers<Record<string, unknown>>();
    this.#waiting.set(id, answer);
    const cancel = (): void => {
      this.notify("notifications/cancelled", { requestId: id });
      answer.reject(new Error(`${method} was aborted, or took too long`));
    };
    signal.addEventListener("abort", cancel, { once: true });
    try {
      this.#write({ id, method, params });
      return await answer.promise;
    } finally {
      signal.removeEventListener("abort", cancel);
      this.#waiting.delete(id);
    }
  }

  notify(method: string, params?: object): void {
    this.#write({ method, ...(params === undefined ? {} : { params }) });
  }

  close(): void {
    this.#fail(new Error("the MCP server was stopped"));
    killTree(this.#child.pid);
  }

  #write(message: object): void {
    if (this.#child.stdin.writable) this.#child.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
  }

  async #read(): Promise<void> {
    try {
      for await (const line of inputLines(this.#child.stdout)) this.#take(line === tooLong ? "" : line);
      this.#fail(new Error("the MCP server has exited"));
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  #take(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      throw new Error("the MCP server wrote a line that is not a JSON message of at most 16 MiB");
    }
    if (!isRecord(message)) return;
    const { id, method, result, error } = message;
    if (method === undefined) {
      const answer = this.#waiting.get(Number(id));
      if (isRecord(result)) answer?.resolve(result);
      else
        answer?.reject(
          new Error(isRecord(error) ? String(error["message"]) : "the MCP server answered without a result"),
        );
    } else if (id !== undefined) {
      // A client without capabilities must answer `ping` and nothing else.
      const known = method === "ping";
      this.#write(
        known ? { id, result: {} } : { id, error: { code: -32_601, message: `no method ${asText(method)}` } },
      );
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const answer of this.#waiting.values()) answer.reject(this.#failure);
    this.#waiting.clear();
  }
}
