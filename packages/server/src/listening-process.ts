import { readdir, readFile, readlink } from "node:fs/promises";

/**
 * When the process started, in clock ticks since the host booted. Together with the process id it names one process: the
 * kernel gives the id of an ended process to a later one. Undefined when no such process runs.
 */
export async function startTicksOf(pid: number): Promise<number | undefined> {
  const stat = await readIfThere(`/proc/${pid}/stat`);
  // proc_pid_stat(5), field 22. Field 2, the name, is in parentheses and may itself contain spaces and parentheses.
  const ticks = Number(stat?.slice(stat.lastIndexOf(")") + 2).split(" ")[22 - 3]);
  return Number.isSafeInteger(ticks) ? ticks : undefined;
}

/**
 * Whether the process listens for TCP connections on the port, as seen from this network namespace. The address needs no
 * check: while a process listens on a port, the kernel lets no other user listen on the same address.
 * @throws EACCES when this user may not look at the process
 */
export async function listensOn(pid: number, port: number): Promise<boolean> {
  const listening = await socketsListeningOn(port);
  if (listening.size === 0) return false;
  const directory = `/proc/${pid}/fd`;
  for (const name of await readdir(directory)) {
    // The process may close a descriptor between the listing and this read.
    const target = await readlink(`${directory}/${name}`).catch(() => "");
    if (listening.has(target)) return true;
  }
  return false;
}

/** The sockets as `/proc/PID/fd` names them. */
async function socketsListeningOn(port: number): Promise<ReadonlySet<string>> {
  const tables = await Promise.all(["tcp", "tcp6"].map((table) => readIfThere(`/proc/self/net/${table}`)));
  const rows = tables.flatMap((table = "") => table.split("\n").slice(1));
  const sockets = rows.flatMap((row) => {
    // proc_net(5): number, local address and port, remote address and port, state, ..., inode.
    const fields = row.trim().split(/\s+/);
    const [local = "", state, inode] = [fields[1], fields[3], fields[9]];
    const isListening = state === "0A" && Number.parseInt(local.split(":")[1] ?? "", 16) === port;
    return isListening ? [`socket:[${inode}]`] : [];
  });
  return new Set(sockets);
}

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // ESRCH: the process ended while its file was open.
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    throw error;
  }
}
