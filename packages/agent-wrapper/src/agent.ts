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
  /** What MCP servers find in theirs. */
  readonly environment: NodeJS.ProcessEnv;
  readonly emit: Emit;
}

/** One agent session: takes commands at any time, and does what was asked one after the other. */
export class Agent {
  readonly #options: AgentOptions;
  readonly #mcpServers: McpServers;
  #settings: TurnSettings;
  #conversation: Conversation = { id: randomUUID(), messages: [] };
  #work: Promise<void> = Promise.resolve();
  /** Ends what runs and what waits; another one for what comes after. */
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
        // As they are when it is asked.
        const { signal } = this.#interrupted;
        const settings = this.#settings;
        this.#turns += 1;
        this.#then(async () => {
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

  /** Settles when all that was asked has been done. */
  async finish(): Promise<void> {
    await this.#work;
    this.#mcpServers[Symbol.dispose]();
  }

  #configure({ type: _type, resume, ...changes }: Configure & { readonly type: "configure" }): void {
    this.#settings = { ...this.#settings, ...changes };
    if (resume !== undefined) this.#then(async () => await this.#resume(resume));
    const { model, permissionMode, cwd } = this.#settings;
    this.#options.emit({ type: "configured", model, permissionMode, cwd });
  }

  async #resume(id: string): Promise<void> {
    const { conversations, emit } = this.#options;
    if (id === this.#conversation.id) return;
    try {
      const messages = await conversations.load(id);
      if (messages === undefined) emit({ type: "error", message: `there is no conversation ${id} to resume` });
      else this.#conversation = { id, messages };
    } catch (error) {
      emit({ type: "error", message: `conversation ${id} cannot be read: ${(error as Error).message}` });
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
      emit({ type: "error", message: `the conversation could not be saved: ${(error as Error).message}` });
    }
    emit({ type: "turn_complete", claude_session_id: id });
  }

  #then(step: () => Promise<void>): void {
    this.#work = this.#work.then(step);
  }
}

interface Conversation {
  readonly id: string;
  readonly messages: Message[];
}
