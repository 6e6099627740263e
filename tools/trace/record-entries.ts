// Preloaded by `node --import`: records every entry into a function of packages/*/src, with its time and request. The
// URL's query parameter `to` is the output directory. Threads, and guest agents of the fake hypervisor, load it too.
import { AsyncLocalStorage } from "node:async_hooks";
import childProcess from "node:child_process";
import { subscribe } from "node:diagnostics_channel";
import { openSync, writeSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { registerHooks, syncBuiltinESMExports } from "node:module";
import { relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { threadId } from "node:worker_threads";
import { instrument } from "./instrument.ts";

/** The request header that names the trace. */
const header = "x-trace";

const root = resolve(import.meta.dirname, "../..");
const directory = new URL(import.meta.url).searchParams.get("to");
if (directory === null) throw new Error("record-entries.ts needs the directory to write to: --import URL?to=DIRECTORY");
const output = openSync(`${directory}/${process.pid}-${threadId}`, "a");
const requests = new AsyncLocalStorage<string>();
const lastFiles = new Map<string, string>();
let pending = "";

Object.assign(globalThis, { recordEntry });
registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context);
    const file = url.startsWith("file:") ? relative(root, fileURLToPath(url)) : "";
    if (!/^packages\/[^/]+\/src\/.*\.ts$/.test(file) || loaded.source === undefined || loaded.source === null)
      return loaded;
    return { ...loaded, source: instrument(Buffer.from(loaded.source as Uint8Array).toString(), file, "recordEntry") };
  },
});
followRequests();
followGuestAgents();
process.on("exit", flush);

/** One line for each change from one file to another: nanoseconds, the trace's name or `-`, file, function. */
function recordEntry(file: string, name: string): void {
  const trace = requests.getStore() ?? "-";
  if (lastFiles.get(trace) === file) return;
  lastFiles.set(trace, file);
  if (pending === "") setImmediate(flush);
  pending += `${process.hrtime.bigint()} ${trace} ${file} ${name}\n`;
}

/** Buffered: a system call between a call of libc and the reading of errno would change errno. */
function flush(): void {
  writeSync(output, pending);
  pending = "";
}

/** Runs every request that has the header in a context with the trace's name. */
function followRequests(): void {
  subscribe("http.server.request.start", (message) => {
    const name = (message as { readonly request: IncomingMessage }).request.headers[header];
    requests.enterWith(typeof name === "string" ? name : "-");
  });
}

/**
 * The fake hypervisor starts guest agents with an environment of their own, so it passes the preload as an argument.
 */
function followGuestAgents(): void {
  const { spawn } = childProcess;
  childProcess.spawn = ((program: string, args: readonly string[], ...rest: unknown[]) => {
    const main = Array.isArray(args) ? args.findIndex((arg: string) => arg.endsWith("guest-agent/src/main.ts")) : -1;
    const traced = main < 0 ? args : args.toSpliced(main, 0, "--import", import.meta.url);
    return Reflect.apply(spawn, childProcess, [program, traced, ...rest]) as unknown;
  }) as typeof spawn;
  syncBuiltinESMExports();
}
