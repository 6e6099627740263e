import type { Context } from "../../context.ts";
import type { FoundHost, TargetInput } from "./find-host.ts";
import type { Remote } from "./install/remote.ts";

export interface Deployment {
  /** Runs on a single host, before this checkout is copied there. */
  readonly prepare?: (remote: Remote, context: Context) => Promise<void>;
  /** Does the work on a fleet, and returns what it did, for people and as a number of workers. */
  readonly onFleet: (
    found: FoundHost,
    note: (text: string) => void,
    signal: AbortSignal,
  ) => Promise<{ readonly done: string; readonly workers: number }>;
}

/** Copies this checkout to the host of that name, or brings a fleet to it. */
export async function deployCheckout(
  input: TargetInput,
  context: Context,
  { prepare = async () => undefined, onFleet }: Deployment,
): Promise<number> {
  const { note, print, progress, signal } = context;
  using shown = progress();
  shown.report("looking the host up");
  const { findHost } = await import("./find-host.ts");
  const { deployTo } = await import("./install/deploy-host.ts");
  const { waitForHost } = await import("./install/remote.ts");
  const { installationRoot } = await import("../../installation.ts");
  const found = await findHost(input, context);
  const { remote, hostname, host } = found;
  shown.report("waiting for the host");
  await waitForHost(remote, signal);
  if (found.isFleet) {
    const say = (line: string): void => {
      shown.pause();
      note(line);
      shown.report(line);
    };
    const { done, workers } = await onFleet(found, say, signal);
    shown.pause();
    await print(`${done}; the server is ${hostname}`, { name: host.name, hostname, workers });
    return 0;
  }
  await prepare(remote, context);
  shown.report("copying this checkout and setting the host up");
  const onLine = (line: string): void => {
    shown.pause();
    note(line);
    shown.report("setting the host up");
  };
  await deployTo(remote, { root: installationRoot, setupOptions: [], onLine }, signal);
  shown.pause();
  await print(`installed this checkout on ${hostname}`, { name: host.name, hostname });
  return 0;
}
