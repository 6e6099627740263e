import { isSandboxError } from "@opensandbox/wire/errors.ts";
import type { PortConnection } from "@opensandbox/wire/worker/ports.ts";
import type { Use } from "#lifecycle/activity.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import { openGuestPort } from "#previews/open-guest-port.ts";
import { type OpenChannel, receivedBy, send } from "./send.ts";
import type { SshConnection } from "./ssh-connection.ts";

/** The answer to a client that wants to reach a port. */
interface Answer {
  /** Undefined: the connection is being ended. */
  accept(): OpenChannel | undefined;
  reject(): void;
}

/** Connects a channel to a server in the sandbox. Resolves when either side has ended the connection. */
export async function forwardPort(
  port: number,
  answer: Answer,
  ended: AbortSignal,
  { sandboxes, identity }: SshConnection,
): Promise<void> {
  if (port < 1 || port > 65_535) return answer.reject();
  const { organizationId, sandboxId } = identity;
  const done = new AbortController();
  const signal = AbortSignal.any([ended, done.signal, sandboxes.shutdown.ending]);
  try {
    let use: Use;
    let connection: PortConnection;
    try {
      use = await useSandbox(sandboxes, organizationId, sandboxId, signal);
      // An open connection keeps no sandbox awake; its traffic does.
      using _ = use;
      connection = await openGuestPort(sandboxes.worker, sandboxId, port, signal);
    } catch (error) {
      answer.reject();
      if (signal.aborted || isSandboxError(error)) return;
      throw error;
    }
    const opened = answer.accept();
    if (opened === undefined) return;
    const { channel, closed } = opened;
    closed.addEventListener("abort", () => done.abort(closed.reason), { once: true });
    try {
      await Promise.all([receive(opened, connection, use), take(opened, connection, use)]);
    } catch (error) {
      // Either side may break a connection.
      if (!signal.aborted && !isSandboxError(error)) throw error;
    } finally {
      channel.destroy();
    }
  } finally {
    done.abort();
  }
}

/** Passes what the server sends. The client may go on sending after its end. */
async function receive(opened: OpenChannel, connection: PortConnection, use: Use): Promise<void> {
  for await (const bytes of connection.incoming) {
    use.touch();
    await send(opened, "stdout", bytes);
  }
  opened.channel.eof();
}

async function take({ channel }: OpenChannel, connection: PortConnection, use: Use): Promise<void> {
  for await (const bytes of receivedBy(channel)) {
    use.touch();
    await connection.write(bytes);
  }
  await connection.end();
}
