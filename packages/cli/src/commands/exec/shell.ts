import type { AttachedSession, Client } from "@opensandbox/sdk";
import { defineCommand } from "../../command.ts";
import type { Context } from "../../context.ts";
import { one, pairs, text } from "#arguments/inputs.ts";
import { writeTo } from "#output/write-to.ts";

/** Ctrl-] leaves, as telnet has it: no program that people use in a terminal needs it. */
const detachKey = 0x1d;

export const shell = defineCommand({
  summary: "Open a shell in a sandbox",
  description: `A terminal of the size of this one. Ctrl-] leaves the shell running and says how to come back to it; ending
the shell ends this command with its code.`,
  arguments: { id: one("SANDBOX") },
  options: {
    shell: text("PROGRAM", "instead of bash"),
    env: pairs("an environment variable of the shell", "e"),
    session: text("SESSION", "go on with one that was left"),
  },
  examples: [
    { line: "shell sb-1a2b3c4d", shows: "a shell as the user sandbox" },
    { line: "shell --shell python3 sb-1a2b3c4d", shows: "another program in a terminal" },
  ],
  async run({ id, shell = "/bin/bash", env, session }, context) {
    const { host, note } = context;
    const client = await context.client();
    const terminal = sizeOf(context);
    const sessionId = session ?? (await client.sessions.start(id, { cmd: shell, args: [], envs: env, terminal })).id;
    if (session !== undefined) await client.sessions.resize(id, session, terminal);
    const attached = await client.sessions.attach(id, sessionId, context.signal);
    using _raw = rawMode(host.stdin);
    using _size = followSize(context, client, id, sessionId);
    const left = forwardKeys(host.stdin, attached);
    try {
      for await (const { bytes } of attached.output) await writeTo(host.stdout, bytes, context.signal);
      return await attached.exitCode;
    } catch (error) {
      if (!left.value) throw error;
      // The cursor is where the shell has left it.
      await writeTo(host.stdout, "\n");
      note(`the shell goes on: ${host.program} shell --session ${sessionId} ${id}`);
      return 0;
    } finally {
      host.stdin.destroy();
    }
  },
});

function sizeOf({ host }: Context): { readonly columns: number; readonly rows: number } {
  const { columns = 80, rows = 24 } = host.stdout as { columns?: number; rows?: number };
  return { columns, rows };
}

/** Every key goes to the sandbox, Ctrl-C too, until it is disposed. Without a terminal there is nothing to change. */
function rawMode(stdin: Context["host"]["stdin"]): Disposable {
  const terminal = stdin as { isTTY?: boolean; setRawMode?(raw: boolean): void };
  const change = terminal.isTTY === true;
  if (change) terminal.setRawMode?.(true);
  return {
    [Symbol.dispose]: () => {
      if (change) terminal.setRawMode?.(false);
    },
  };
}

function followSize(context: Context, client: Client, id: string, sessionId: string): Disposable {
  const { stdout } = context.host;
  // A size that could not be told is told with the next change.
  const onResize = (): void => void client.sessions.resize(id, sessionId, sizeOf(context)).catch(() => undefined);
  stdout.on("resize", onResize);
  return { [Symbol.dispose]: () => stdout.off("resize", onResize) };
}

/** `value` is true once the user has left the shell. */
function forwardKeys(stdin: Context["host"]["stdin"], attached: AttachedSession): { value: boolean } {
  const left = { value: false };
  stdin.on("data", (chunk: Buffer) => {
    const at = (stdin as { isTTY?: boolean }).isTTY === true ? chunk.indexOf(detachKey) : -1;
    const keys = at === -1 ? chunk : chunk.subarray(0, at);
    // What a shell that has ended does not take is nobody's loss.
    if (keys.length > 0) attached.write(keys).catch(() => undefined);
    if (at === -1) return;
    left.value = true;
    attached.detach();
  });
  // The end of a script that is piped in is the end of what the shell reads.
  stdin.once("end", () => void attached.write(Uint8Array.of(0x04)).catch(() => undefined));
  return left;
}
