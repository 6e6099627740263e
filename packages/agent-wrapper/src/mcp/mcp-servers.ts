import type { McpServerSettings } from "../command.ts";
import type { Tool } from "../tools/tool.ts";
import { McpServer } from "./mcp-server.ts";

export interface McpStatus {
  readonly name: string;
  readonly status: "connected" | "failed";
  readonly error?: string;
}

/** The MCP servers of a session. They run from the first turn that needs them until the settings change. */
export class McpServers implements Disposable {
  readonly #environment: NodeJS.ProcessEnv;
  #wanted = "{}";
  readonly #servers = new Map<string, McpServer>();

  constructor(environment: NodeJS.ProcessEnv) {
    this.#environment = environment;
  }

  /** Starts the servers that do not run yet. One that fails to start is reported and tried again at the next turn. */
  async provide(settings: Readonly<Record<string, McpServerSettings>>, cwd: string): Promise<readonly McpStatus[]> {
    const wanted = JSON.stringify(settings);
    if (wanted !== this.#wanted) this[Symbol.dispose]();
    this.#wanted = wanted;
    return await Promise.all(
      Object.entries(settings).map(async ([name, server]): Promise<McpStatus> => {
        if (this.#servers.get(name)?.isRunning) return { name, status: "connected" };
        try {
          this.#servers.set(name, await McpServer.start(name, server, { cwd, environment: this.#environment }));
          return { name, status: "connected" };
        } catch (error) {
          this.#servers.delete(name);
          return { name, status: "failed", error: (error as Error).message };
        }
      }),
    );
  }

  tools(): readonly Tool[] {
    return [...this.#servers.values()].flatMap(({ tools }) => tools);
  }

  [Symbol.dispose](): void {
    for (const server of this.#servers.values()) server[Symbol.dispose]();
    this.#servers.clear();
  }
}
