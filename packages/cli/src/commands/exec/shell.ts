import type { AttachedSession, Client } from "@opensandbox/sdk";
import { defineCommand } from "../../command.ts";
import type { Context } from "../../context.ts";
import { one, pairs, text } from "#arguments/inputs.ts";
import { writeTo } from "#output/write-to.ts";

/** Ctrl-], as in telnet: programs in a terminal hardly ever use it. */
const detachKey = 0x1d;

export const shell = defineCommand({
  summary: "Open a shell in a sandbox",
  description: `Opens a terminal of the same size as this one. Ctrl-] leaves the shell running and prints how to return to it. When
the shell exits, this command exits with its code.`,
  arguments: { id: one("SANDBOX") },
  options: {
    shell: text("PROGRAM", "another program (default: /bin/bash)"),
    env: pairs("set an environment variable for the shell", "e"),
    session: text("SESSION", "return to a shell that was left"),
  },
  examples: [
    { line: "shell sb-1a2b3c4d", shows: "open a shell as the user sandbox" },
    { line: "shell --shell python3 sb-1a2b3c4d", shows: "open another program in a terminal" },
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
      // The shell may have left the cursor in the middle of a line.
      await writeTo(host.stdout, "\n");
      note(`the shell keeps running; return to it with: ${host.program} shell --session ${sessionId} ${id}`);
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

/** Sends every key to the sandbox, Ctrl-C included, until it is disposed. Has no effect without a terminal. */
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
  // The next resize makes up for a failed one.
  const onResize = (): void => void client.sessions.resize(id, sessionId, sizeOf(context)).catch(() => undefined);
  stdout.on("resize", onResize);
  return { [Symbol.dispose]: () => stdout.off("resize", onResize) };
}

/** Forwards keys. `value` becomes true when the user leaves the shell. */
function forwardKeys(stdin: Context["host"]["stdin"], attached: AttachedSession): { value: boolean } {
  const left = { value: false };
  stdin.on("data", (chunk: Buffer) => {
    const at = (stdin as { isTTY?: boolean }).isTTY === true ? chunk.indexOf(detachKey) : -1;
    const keys = at === -1 ? chunk : chunk.subarray(0, at);
    // Keys for a shell that has just ended are dropped.
    if (keys.length > 0) attached.write(keys).catch(() => undefined);
    if (at === -1) return;
    left.value = true;
    attached.detach();
  });
  // The end of piped input is Ctrl-D for the shell.
  stdin.once("end", () => void attached.write(Uint8Array.of(0x04)).catch(() => undefined));
  return left;
}
