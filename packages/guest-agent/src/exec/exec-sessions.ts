import { create } from "@bufbuild/protobuf";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import { SessionInfosSchema } from "@opensandbox/wire/guest/messages_pb.js";
import type { Handlers } from "#server.ts";
import type { StartCommand } from "./command.ts";
import { ExecSession } from "./exec-session.ts";
import { OutputLog } from "./output-log.ts";
import { SpillFile, type SpillOptions } from "./spill-file.ts";

/** How long a session is there after its end. */
const keptMs = 600_000;
/** And one whose creator was told everything. It stays for a moment: the answer may have crossed with a farewell. */
const toldKeptMs = 30_000;
/** So many ended ones are there at most, each perhaps with an open file. */
const maxEnded = 2000;
/** What ended ones may hold of the agent's memory, in bytes. */
const maxEndedMemory = 16 * 2 ** 20;
const listBatch = 16;

type SessionHandlers = Pick<
  Handlers,
  | "sessionCreate"
  | "sessionAttach"
  | "sessionList"
  | "sessionSignal"
  | "sessionResize"
  | "sessionWait"
  | "sessionRemove"
>;

/** The sessions of this machine, and what can be asked of them. They live as long as the agent does. */
export function execSessions(start: StartCommand, spill: SpillOptions): SessionHandlers {
  const sessions = new SessionTable();
  return {
    async sessionCreate(request, stream) {
      const { id, command, terminal, attach, keepOutput, transient } = request;
      sessions.checkNew(id);
      if (command === undefined) throw new SandboxError("invalid_argument", "a session needs a command", undefined);
      const log = new OutputLog(new SpillFile(spill), { keepAll: keepOutput });
      const session = new ExecSession(request, start(command, terminal), log);
      sessions.add(session);
      if (!attach) return session.info();
      const info = await session.attach(stream, { fromStart: true, pipes: [] });
      if (transient) sessions.wasTold(session);
      return info;
    },
    sessionAttach: async ({ id, fromStart, pipes }, stream) =>
      await sessions.get(id).attach(stream, { fromStart, pipes }),
    async sessionList(_, stream) {
      await sendList(sessions.listed(), stream);
      return {};
    },
    async sessionSignal({ id, signal }) {
      sessions.get(id).signal(signal);
      return {};
    },
    async sessionResize({ id, size }) {
      if (size !== undefined) sessions.get(id).resize(size);
      return {};
    },
    async sessionWait({ id, waitMs }, stream) {
      const session = sessions.get(id);
      session.told = false;
      if (session.isRunning && waitMs > 0) await endOrTimeout(session, waitMs, stream.signal);
      return session.info();
    },
    async sessionRemove({ id }) {
      sessions.remove(sessions.get(id));
      return {};
    },
  };
}

class SessionTable {
  /** In the order of their start. */
  readonly #sessions = new Map<string, ExecSession>();

  /** @throws invalid_argument, already_exists */
  checkNew(id: string): void {
    if (!/^[\w-]{1,64}$/.test(id)) {
      throw new SandboxError("invalid_argument", `${JSON.stringify(id)} cannot be the id of a session`, undefined);
    }
    if (this.#sessions.has(id)) {
      throw new SandboxError("already_exists", `session ${id} exists already`, { resource: "exec session", id });
    }
  }

  add(session: ExecSession): void {
    this.#sessions.set(session.id, session);
    void session.ended.then(() => {
      this.#expire(session, keptMs);
      return this.#relieve();
    });
  }

  /** @throws not_found */
  get(id: string): ExecSession {
    const session = this.#sessions.get(id);
    if (session === undefined)
      throw new SandboxError("not_found", "session not found", { resource: "exec session", id });
    return session;
  }

  listed(): readonly ExecSession[] {
    return [...this.#sessions.values()].filter(({ told }) => !told);
  }

  /** Its creator has the whole of it. */
  wasTold(session: ExecSession): void {
    session.told = true;
    setTimeout(() => {
      if (session.told) this.remove(session);
    }, toldKeptMs);
  }

  remove(session: ExecSession): void {
    if (this.#sessions.get(session.id) !== session) return;
    this.#sessions.delete(session.id);
    session.kill();
    void session.dispose();
  }

  #expire(session: ExecSession, milliseconds: number): void {
    setTimeout(() => this.remove(session), milliseconds);
  }

  /** Keeps what ended sessions take within bounds. */
  async #relieve(): Promise<void> {
    const ended = [...this.#sessions.values()].filter(({ isRunning }) => !isRunning);
    for (const session of ended.slice(0, Math.max(0, ended.length - maxEnded))) this.remove(session);
    let memory = ended.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0);
    // First those that nobody asks for any more.
    for (const session of ended.toSorted((a, b) => Number(b.told) - Number(a.told))) {
      if (memory <= maxEndedMemory) return;
      memory -= session.memoryBytes;
      if (session.told) this.remove(session);
      else await session.leaveMemory();
    }
  }
}

async function endOrTimeout(session: ExecSession, milliseconds: number, signal: AbortSignal): Promise<void> {
  const ended = new AbortController();
  const until = AbortSignal.any([signal, ended.signal]);
  // However it ends, what is known then is the answer.
  const time = sleep(milliseconds, undefined, { signal: until }).catch(() => undefined);
  await Promise.race([session.ended, time]);
  ended.abort();
}

async function sendList(sessions: readonly ExecSession[], stream: Stream): Promise<void> {
  for (let at = 0; at < sessions.length; at += listBatch) {
    const batch = sessions.slice(at, at + listBatch).map((session) => session.info());
    await stream.sendMessage(SessionInfosSchema, create(SessionInfosSchema, { sessions: batch }));
  }
}
