import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Message } from "./model/message.ts";

/** Conversations, one file each, so that another session can continue them. */
export class SavedConversations {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  async save(id: string, messages: readonly Message[]): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const file = this.#file(id);
    await writeFile(`${file}.new`, JSON.stringify(messages), { mode: 0o600 });
    await rename(`${file}.new`, file);
  }

  /** Undefined when there is no such conversation. */
  async load(id: string): Promise<Message[] | undefined> {
    try {
      return JSON.parse(await readFile(this.#file(id), "utf8")) as Message[];
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  #file(id: string): string {
    return join(this.#directory, `${id}.json`);
  }
}
