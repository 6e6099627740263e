import { basename, delimiter, dirname } from "node:path";
import type { Host } from "./context.ts";
import { commands } from "./commands/commands.ts";
import { listenForInterrupts } from "./interrupts.ts";
import { runCli } from "./run-cli.ts";
import { visibleText } from "./output/visible-text.ts";
import { flushed } from "./output/write-to.ts";

// Connects the command line to its process: streams, signals and the exit code.

const { stdout, stderr, env } = process;
// Each write reports its own failure.
for (const stream of [stdout, stderr]) stream.on("error", () => undefined);

const program = programName(env["OPENSANDBOX_PROGRAM"]);
// Set by the launcher for this process only; child processes do not inherit them.
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

// An exception may leave the state of this process inconsistent, so the process ends. The machines of a server run on, and
// the next server adopts them. Any other command stops the machines that it started.
let broken = false;
// Bounds the orderly shutdown of a server after an exception.
const maxBrokenMs = 10_000;
process.on("uncaughtException", (error) => {
  broken = true;
  stderr.write(`osb: internal error: ${visibleText(error.stack ?? error.message)}\n`);
  const isServer = process.listenerCount("SIGUSR2") > 0;
  process.emit(isServer ? "SIGUSR2" : "SIGTERM");
  if (isServer) setTimeout(() => process.exit(1), maxBrokenMs).unref();
});

const exitCode = await runCli(commands, process.argv.slice(2), host);
// Exiting would drop text that is still buffered for a pipe. Results on standard output have been written by now.
await flushed(stderr, 1000);
// Exits explicitly, because a terminal that has been read from keeps the process alive.
process.exit(broken ? 1 : exitCode);

/** The name as the user types it. The launcher passes it on. */
function programName(called: string | undefined): string {
  if (called === undefined || called === "") return "osb";
  const found = (env["PATH"] ?? "").split(delimiter).includes(dirname(called));
  return found ? basename(called) : called;
}
