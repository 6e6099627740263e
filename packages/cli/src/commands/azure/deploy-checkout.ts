import type { Context } from "../../context.ts";
import type { TargetInput } from "./find-host.ts";
import type { Remote } from "./install/remote.ts";

/** Copies this checkout to the host of that name, after `prepare`. */
export async function deployCheckout(
  input: TargetInput,
  context: Context,
  prepare: (remote: Remote, context: Context) => Promise<void> = async () => undefined,
): Promise<number> {
  const { note, print, progress, signal } = context;
  using shown = progress();
  shown.report("looking the host up");
  const { findHost } = await import("./find-host.ts");
  const { deployTo } = await import("./install/deploy-host.ts");
  const { waitForHost } = await import("./install/remote.ts");
  const { installationRoot } = await import("../../installation.ts");
  const { remote, hostname, host } = await findHost(input, context);
  shown.report("waiting for the host");
  await waitForHost(remote, signal);
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
