import { randomUUID } from "node:crypto";
import type { Command, Configure } from "./command.ts";
import type { Emit } from "./event.ts";
import { McpServers } from "./mcp/mcp-servers.ts";
import type { Model } from "./model/messages-client.ts";
import type { Message } from "./model/message.ts";
import type { SavedConversations } from "./saved-conversations.ts";
import { runTurn, type TurnSettings } from "./turn.ts";

export interface AgentOptions {
  readonly model: Model;
  readonly settings: Pick<TurnSettings, "model" | "cwd">;
  readonly conversations: SavedConversations;
  /** The environment that MCP servers start with. */
  readonly environment: NodeJS.ProcessEnv;
  readonly emit: Emit;
}

/** One agent session. It accepts commands at any time and works on prompts one after the other. */
export class Agent {
  readonly #options: AgentOptions;
  readonly #mcpServers: McpServers;
  #settings: TurnSettings;
  #conversation: Conversation = { id: randomUUID(), messages: [] };
  #work: Promise<void> = Promise.resolve();
  /** Aborts the current turn and the queued ones. An interrupt replaces it, for the turns after it. */
  #interrupted = new AbortController();
  #turns = 0;

  constructor(options: AgentOptions) {
    this.#options = options;
    this.#mcpServers = new McpServers(options.environment);
    this.#settings = {
      ...{ maxTurns: 50, permissionMode: "bypassPermissions", allowedTools: [], mcpServers: {} },
      ...{ systemPrompt: undefined, includePartialMessages: false },
      ...options.settings,
    };
  }

  take(command: Command): void {
    switch (command.type) {
      case "configure":
        this.#configure(command);
        break;
      case "prompt": {
        // A prompt keeps the settings of the moment it is accepted.
        const { signal } = this.#interrupted;
        const settings = this.#settings;
        this.#turns += 1;
        this.#enqueue(async () => {
          if (!signal.aborted) await this.#turn(command.text, settings, signal);
          this.#turns -= 1;
        });
        break;
      }
      case "interrupt":
        if (this.#turns === 0) this.#options.emit({ type: "interrupted" });
        this.#interrupted.abort();
        this.#interrupted = new AbortController();
        break;
    }
  }

  /** Settles when every accepted prompt is answered. */
  async finish(): Promise<void> {
    await this.#work;
    this.#mcpServers[Symbol.dispose]();
  }

  #configure({ type: _type, resume, ...changes }: Configure & { readonly type: "configure" }): void {
    this.#settings = { ...this.#settings, ...changes };
    if (resume !== undefined) this.#enqueue(async () => await this.#resume(resume));
    const { model, permissionMode, cwd } = this.#settings;
    this.#options.emit({ type: "configured", model, permissionMode, cwd });
  }

  async #resume(id: string): Promise<void> {
    const { conversations, emit } = this.#options;
    if (id === this.#conversation.id) return;
    try {
      const messages = await conversations.load(id);
      if (messages === undefined)
        emit({ type: "error", message: `cannot resume conversation ${id}: this sandbox has no such conversation` });
      else this.#conversation = { id, messages };
    } catch (error) {
      emit({ type: "error", message: `cannot resume conversation ${id}: ${(error as Error).message}` });
    }
  }

  async #turn(text: string, settings: TurnSettings, signal: AbortSignal): Promise<void> {
    const { model, conversations } = this.#options;
    const { id, messages } = this.#conversation;
    const emit: Emit = (event) => this.#options.emit({ ...event, session_id: id });
    await runTurn({ text, settings, messages, model, mcpServers: this.#mcpServers, emit }, signal);
    try {
      await conversations.save(id, messages);
    } catch (error) {
      emit({
        type: "error",
        message: `cannot save conversation ${id}, so it cannot be resumed: ${(error as Error).message}`,
      });
    }
    emit({ type: "turn_complete", claude_session_id: id });
  }

  #enqueue(step: () => Promise<void>): void {
    this.#work = this.#work.then(step);
  }
}

interface Conversation {
  readonly id: string;
  readonly messages: Message[];
}
