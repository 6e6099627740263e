import { basename, delimiter, dirname } from "node:path";
import type { Host } from "./context.ts";
import { commands } from "./commands/commands.ts";
import { listenForInterrupts } from "./interrupts.ts";
import { runCli } from "./run-cli.ts";
import { visibleText } from "./output/visible-text.ts";
import { flushed } from "./output/write-to.ts";

// The process around the command line: streams and signals in, an exit code out.

const { stdout, stderr, env } = process;
// Each write tells its own failure.
for (const stream of [stdout, stderr]) stream.on("error", () => undefined);

const program = programName(env["OPENSANDBOX_PROGRAM"]);
// The launcher's words to this process, which are none to those that it starts.
for (const name of ["OPENSANDBOX_PROGRAM", "NODE_COMPILE_CACHE"]) delete env[name];

const host: Host = {
  program,
  env,
  get stdin() {
    return process.stdin;
  },
  stdout,
  stderr,
  interrupts: listenForInterrupts(process, (code) => process.exit(code)),
  async connect(url, apiKey) {
    const { connect } = await import("@opensandbox/sdk");
    const openSocket = async (url: string, signal?: AbortSignal) => {
      const { openPausingSocket } = await import("@opensandbox/sdk/transport/node-socket.ts");
      return await openPausingSocket(url, signal);
    };
    return connect({ url, openSocket, ...(apiKey === undefined ? {} : { apiKey }) });
  },
};

// A mistake in this process is no reason to leave machines behind: it ends as after SIGTERM.
let broken = false;
process.on("uncaughtException", (error) => {
  broken = true;
  stderr.write(`osb: internal error: ${visibleText(error.stack ?? error.message)}\n`);
  process.emit("SIGTERM", "SIGTERM");
});

const exitCode = await runCli(commands, process.argv.slice(2), host);
// What is still on its way to a pipe would be lost; results have been waited for.
await flushed(stderr, 1000);
// Not left to the end of all handles: a terminal that is read from never ends.
process.exit(broken ? 1 : exitCode);

/** As the user would type it: the launcher says how it was called. */
function programName(called: string | undefined): string {
  if (called === undefined || called === "") return "osb";
  const found = (env["PATH"] ?? "").split(delimiter).includes(dirname(called));
  return found ? basename(called) : called;
}
