import type { SandboxContext } from "./sandbox-context.ts";

type Context = Pick<SandboxContext, "worker" | "placement" | "servers" | "isWorkerAlive">;

/** The name of this server in the rows of builds. With several servers, a build belongs to its server, not to a worker. */
export function builderId({ worker, servers }: Pick<Context, "worker" | "servers">): string {
  return servers.id ?? worker.id;
}

/** Whether the server that began a build has ended, so that nothing finishes it. */
export async function isBuilderGone(context: Context, id: string): Promise<boolean> {
  const { worker, placement, servers } = context;
  if (servers.id !== undefined) return id !== servers.id && !(await servers.isAlive(id));
  return id === worker.id || placement.includes(id) || !context.isWorkerAlive(id);
}
