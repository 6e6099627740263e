import { randomBytes } from "node:crypto";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import type { Transport } from "@opensandbox/wire/guest/channel.ts";
import { version } from "@opensandbox/wire/version.ts";
import { bootId, configure } from "./configure.ts";
import { reshape } from "./reshape.ts";
import { listenOnUnixSocket } from "#connection/unix-socket.ts";
import { findSerialPort, serveVirtioSerial } from "#connection/virtio-serial.ts";
import { listenOnVsock, vsockConnector } from "#connection/vsock.ts";
import { MachineEnvironment } from "#exec/environment.ts";
import { commandStarter } from "#exec/command.ts";
import { execSessions } from "#exec/exec-sessions.ts";
import { list } from "#files/list.ts";
import { makeDirectory } from "#files/make-directory.ts";
import { readFile } from "#files/read-file.ts";
import { remove } from "#files/remove.ts";
import { rename } from "#files/rename.ts";
import { setAttributes } from "#files/set-attributes.ts";
import { stat } from "#files/stat.ts";
import { watch } from "#files/watch.ts";
import { writeFile } from "#files/write-file.ts";
import { type HookOptions, hookRunner } from "#hooks/run-hooks.ts";
import { connect } from "#ports/connect.ts";
import { type Agent, startSession } from "./server.ts";
import { fakeSystem } from "#system/fake-system.ts";
import { guestSystem } from "#system/guest-system.ts";
import type { System } from "#system/system.ts";

/** The file is on a tmpfs, so that it lives exactly as long as the machine. */
const environmentFile = "/run/sandbox-agent/environment.json";

/** Holds output that exceeds what the agent keeps in memory. */
const spillDirectory = "/var/lib/opensandbox";

const guestHooks = { directory: "/etc/opensandbox/hooks", logs: "/var/log/opensandbox/hooks" };

// In a guest the agent takes no arguments. `--fake --home DIR --socket PATH` makes this process a whole fake machine.
const { values } = parseArgs({
  options: { fake: { type: "boolean" }, home: { type: "string" }, socket: { type: "string" } },
});
if (values.fake) {
  const { home = process.cwd() } = values;
  const agent = agentOf(fakeSystem(home), new MachineEnvironment(undefined), {
    ...{ spill: dirname(home), hooks: { directory: join(home, "hooks"), logs: join(home, "hook-logs") } },
  });
  await listenOnUnixSocket(values.socket ?? "agent.sock", serve(agent));
} else {
  const start = serve(
    agentOf(guestSystem(), new MachineEnvironment(environmentFile), {
      ...{ spill: spillDirectory, hooks: guestHooks },
    }),
  );
  const port = findSerialPort();
  // Over the port a worker asks for connections by vsock. Any process of its host could connect to a listener.
  if (port !== undefined) await serveVirtioSerial(port, start);
  else if (!listenOnVsock(start))
    throw new Error("the machine has neither a virtio-serial port for the agent nor vsock");
}

function serve(agent: Agent) {
  return (transport: Transport) => startSession(transport, agent);
}

/** Where the agent reads and writes files of its own. */
interface Places {
  readonly spill: string;
  readonly hooks: Pick<HookOptions, "directory" | "logs">;
}

function agentOf(system: System, environment: MachineEnvironment, { spill, hooks }: Places): Agent {
  const start = commandStarter(system, environment);
  // The console has what the agent writes to standard error.
  const runHooks = hookRunner({ ...hooks, start, report: (message) => console.error(message) });
  const agent: Agent = {
    version,
    instance: randomBytes(8).readBigUInt64LE(),
    handlers: {
      ping: async () => ({
        version,
        uptimeMs: BigInt(Math.round(process.uptime() * 1000)),
        bootId: bootId(),
        clockUnixNanos: BigInt(Date.now()) * 1_000_000n,
      }),
      configure: async (request) => {
        await configure(request, system, environment, runHooks);
        return {};
      },
      ...execSessions(start, { directory: spill }),
      readFile: (request, stream) => readFile(request, stream, system),
      writeFile: (request, stream) => writeFile(request, stream, system),
      stat: (request, stream) => stat(request, stream, system),
      list: (request, stream) => list(request, stream, system),
      makeDirectory: (request, stream) => makeDirectory(request, stream, system),
      remove: (request, stream) => remove(request, stream, system),
      rename: (request, stream) => rename(request, stream, system),
      setAttributes: (request, stream) => setAttributes(request, stream, system),
      watch: (request, stream) => watch(request, stream, system),
      connect,
      fitMemory: async () => {
        const { total, available } = system.fitMemory();
        return { totalBytes: BigInt(total), availableBytes: BigInt(available) };
      },
      reshape: (request) => reshape(request, system),
      sync: async () => {
        await system.fileSystems.sync();
        return {};
      },
      freeze: async () => ({ mountpoints: [...(await system.fileSystems.freeze())] }),
      thaw: async () => {
        system.fileSystems.thaw();
        return {};
      },
      connectVsock: vsockConnector((transport) => startSession(transport, agent)),
    },
  };
  return agent;
}
