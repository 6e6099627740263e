import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Connection, ServerChannel, Session } from "ssh2";
import type { Identity } from "./authenticate.ts";
import { forwardPort } from "./forward-port.ts";
import { type Command, runInChannel, type RunningChannel } from "./run-in-channel.ts";
import type { OpenChannel } from "./send.ts";
import { signalNumber } from "./signals.ts";
import type { SshConnection } from "./ssh-connection.ts";

/** Channels that a connection may have open at once: editors open dozens. */
const maxChannels = 100;
/** Variables that a client may set, and the characters of all of them together. */
const maxVariables = 64;
const maxVariableCharacters = 32_768;

/**
 * Serves the channels of a connection: commands, terminals, file transfer and forwarded ports. Forwarding of agents, X11
 * and of ports of the server is refused. Resolves when the connection and everything that it ran here has ended.
 */
export async function serveConnection(client: Connection, connection: SshConnection): Promise<void> {
  const { socket, guard, sandboxes, identity } = connection;
  const ended = new AbortController();
  const working = new Set<Promise<void>>();
  let channels = 0;
  socket.once("close", () => ended.abort(new SandboxError("canceled", "the client disconnected")));
  if (socket.destroyed) ended.abort(new SandboxError("canceled", "the client disconnected"));

  /** Does the work of a channel until it is done. */
  const work = (done: Promise<void>): void => {
    const logged = done.catch((error: unknown) => {
      if (ended.signal.aborted) return;
      sandboxes.log("error", "an SSH channel failed", { sandbox: identity.sandboxId, ...describeError(error) });
    });
    working.add(logged);
    void logged.finally(() => working.delete(logged));
  };
  const open = (channel: ServerChannel): OpenChannel | undefined => {
    if (!guard.watch(channel)) return undefined;
    const closed = new AbortController();
    channel.once("close", () => closed.abort(new SandboxError("canceled", "the client closed the channel")));
    // A channel reports errors of its own as its end.
    channel.on("error", () => undefined);
    return { channel, guard, closed: AbortSignal.any([closed.signal, ended.signal]) };
  };

  client.on("session", (accept, reject) => {
    if (channels >= maxChannels) return reject();
    channels += 1;
    const session = accept();
    session.once("close", () => (channels -= 1));
    serveSession(session, (channel, command) => {
      const opened = open(channel);
      if (opened === undefined) return undefined;
      const running = runInChannel(opened, command, connection);
      work(running.done);
      return running;
    });
  });

  client.on("tcpip", (accept, reject, { destIP, destPort }) => {
    if (channels >= maxChannels || !isGuest(destIP, identity)) return reject();
    channels += 1;
    const accepted = (): OpenChannel | undefined => open(accept());
    work(forwardPort(destPort, { accept: accepted, reject }, ended.signal, connection).finally(() => (channels -= 1)));
  });

  await new Promise((resolve) => {
    if (ended.signal.aborted) resolve(undefined);
    else ended.signal.addEventListener("abort", resolve, { once: true });
  });
  await Promise.all(working);
}

/** Whether an address to forward to is the sandbox itself: others are reached from inside it, by its own network. */
function isGuest(host: string, { sandboxId }: Identity): boolean {
  return host === "localhost" || host === sandboxId || host === "::1" || /^127(?:\.\d{1,3}){3}$/.test(host);
}

type Start = (channel: ServerChannel, command: Command) => RunningChannel | undefined;

/** Collects what a client says about a session, and starts what it asks for, once. */
function serveSession(session: Session, start: Start): void {
  const variables = new Map<string, string>();
  let characters = 0;
  let terminal: Command["terminal"];
  let running: RunningChannel | undefined;

  const begin = (accept: () => ServerChannel | undefined, command: Omit<Command, "envs">): void => {
    const channel = accept();
    if (channel === undefined) return;
    running = start(channel, { ...command, envs: Object.fromEntries(variables) });
  };

  session.on("env", (accept, reject, { key, val }) => {
    characters += key.length + val.length;
    const isAccepted =
      /^[A-Za-z_]\w*$/.test(key) &&
      !val.includes("\0") &&
      characters <= maxVariableCharacters &&
      (variables.size < maxVariables || variables.has(key));
    if (!isAccepted) return ignore(reject);
    variables.set(key, val);
    ignore(accept);
  });
  session.on("pty", (accept, _reject, { cols, rows, term }) => {
    terminal = sizeOf(cols, rows);
    if (typeof term === "string" && /^[\w.+-]{1,64}$/.test(term)) variables.set("TERM", term);
    ignore(accept);
  });
  session.on("window-change", (accept, _reject, { cols, rows }) => {
    running?.resize(sizeOf(cols, rows));
    ignore(accept);
  });
  session.on("signal", (accept, reject, { name }) => {
    const number = signalNumber(name);
    if (number === undefined || running === undefined) return ignore(reject);
    running.signal(number);
    ignore(accept);
  });
  session.on("shell", (accept) => begin(accept, { kind: "shell", ...(terminal === undefined ? {} : { terminal }) }));
  session.on("exec", (accept, _reject, { command }) => {
    begin(accept, { kind: "exec", line: command, ...(terminal === undefined ? {} : { terminal }) });
  });
  session.on("subsystem", (accept, reject, { name }) => {
    if (name === "sftp") begin(accept, { kind: "sftp" });
    else ignore(reject);
  });
}

/** Calls an answer that a client did not ask for, or did. */
function ignore(answer: (() => unknown) | undefined): void {
  answer?.();
}

/** A terminal without a size, as of a client that has none itself, gets the usual one. */
function sizeOf(columns: number, rows: number): { readonly columns: number; readonly rows: number } {
  const bounded = (value: number, usual: number): number => (value < 1 ? usual : Math.min(value, 10_000));
  return { columns: bounded(columns, 80), rows: bounded(rows, 24) };
}
