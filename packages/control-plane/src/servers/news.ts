import { setTimeout as sleep } from "node:timers/promises";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { DatabaseServer } from "#database/database-server.ts";
import { connectAlone } from "#database/postgres/postgres.ts";
import type { Log } from "../log.ts";

/** The channel of PostgreSQL on which servers say that a gate is free. The payload is the sandbox. */
export const gateChannel = "opensandbox_gates";

const reconnectMs = 1000;

/**
 * Hears what other servers say through PostgreSQL, on a session of its own. News can be lost with a connection, so a
 * listener also looks by itself at intervals. Disposing ends the session.
 */
export function listenForNews(server: DatabaseServer, log: Log, onNews: (payload: string) => void): AsyncDisposable {
  const ending = new AbortController();
  const listening = listen();
  return {
    async [Symbol.asyncDispose]() {
      ending.abort();
      await listening;
    },
  };

  async function listen(): Promise<void> {
    while (!ending.signal.aborted) {
      try {
        await listenOnce();
      } catch (error) {
        if (!ending.signal.aborted) log("warn", "cannot listen to news of other servers", describeError(error));
      }
      await sleep(reconnectMs, undefined, { signal: ending.signal }).catch(() => {});
    }
  }

  async function listenOnce(): Promise<void> {
    const client = await connectAlone(server);
    const ended = Promise.withResolvers<void>();
    const stop = (): void => ended.resolve();
    ending.signal.addEventListener("abort", stop, { once: true });
    client.on("error", (error) => ended.reject(error));
    client.on("end", stop);
    client.on("notification", ({ payload }) => onNews(payload ?? ""));
    try {
      if (ending.signal.aborted) return;
      await client.connect();
      await client.query(`LISTEN ${gateChannel}`);
      await ended.promise;
    } finally {
      ending.signal.removeEventListener("abort", stop);
      // A client that has ended by itself ends at once.
      await client.end();
    }
  }
}
