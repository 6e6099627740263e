import { freemem, totalmem } from "node:os";
import { join, relative } from "node:path";
import { processTrees } from "./kernel/process-tree.ts";
import type { Memory, System } from "#system/system.ts";
import { unknownUser } from "#system/users.ts";

/** A fake machine: commands are processes of this host, `home` is the workspace, and nothing else is touched. */
export function fakeSystem(home: string): System {
  const commands = processTrees();
  process.once("SIGTERM", () => {
    commands.killAll();
    process.exit(0);
  });
  return {
    findUser: (name) => {
      if (name !== "sandbox" && name !== "root") throw unknownUser(name);
      return { name, home, shell: "/bin/bash", credentials: undefined };
    },
    // Users of a sandbox do not exist on the host.
    findOwner: () => ({}),
    takeCommandGroup: commands.take,
    fitMemory: memory,
    memory,
    limitCommands: () => undefined,
    setProcessors: () => undefined,
    growWorkspace: async () => undefined,
    starting: (start) => start(),
    locate: (path) => {
      const inside = below("/home/sandbox", path) ?? below("/workspace", path);
      return inside === undefined ? path : join(home, inside);
    },
    programOf: (path) => (path === sftpServer.path ? sftpServer.command : undefined),
    owner: undefined,
    mountPoints: () => ["/", home],
    mayStall: () => false,
    addEntropy: () => undefined,
    setClock: () => undefined,
    stepClock: () => undefined,
    setMacAddress: () => undefined,
    setHostname: () => undefined,
    setMachineId: () => undefined,
    renewSecrets: async () => undefined,
    trustAuthority: () => undefined,
    fileSystems: { sync: async () => undefined, freeze: async () => [], thaw: () => undefined },
  };
}

/** A fake machine has no agent disk: the host's Node runs the source. */
const sftpServer = {
  path: "/run/opensandbox/bin/sftp-server",
  command: [process.execPath, "--disable-warning=ExperimentalWarning", join(import.meta.dirname, "../sftp/main.ts")],
};

function memory(): Memory {
  return { total: totalmem(), available: freemem(), needed: 0 };
}

function below(folder: string, path: string): string | undefined {
  const rest = relative(folder, path);
  return rest === ".." || rest.startsWith("../") ? undefined : rest;
}
