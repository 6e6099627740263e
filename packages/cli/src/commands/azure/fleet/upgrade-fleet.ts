import { version } from "@opensandbox/wire/version.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { installationRoot } from "../../../installation.ts";
import type { FoundHost } from "../find-host.ts";
import { deployTo } from "../install/deploy-host.ts";
import { type Remote, runRemote } from "../install/remote.ts";
import type { ArmCall } from "../resource-manager/arm-client.ts";
import { find } from "../resource-manager/create-host.ts";
import { bootLine } from "./boot-line.ts";
import { type AzureFleet, image, userDataOf } from "./fleet-plan.ts";
import { listRemoteWorkers, remoteOperator } from "./workers/remote-operator.ts";
import { plannedRoll, type RollTarget, rollWorkers } from "./workers/roll-workers.ts";
import { listMachines, readScaleSet, runsOn } from "./workers/scale-set.ts";

/**
 * Upgrades the server of a fleet in place, and replaces its workers one after another by machines of this version's
 * image. Sandboxes move with their memory. A second run continues after an interruption.
 * @returns the number of replaced workers
 * @throws `unavailable` without that image, and as {@link rollWorkers}
 */
export async function upgradeFleet(
  { arm, host, location, remote }: FoundHost,
  { note, pollMs }: { readonly note: (text: string) => void; readonly pollMs?: number },
  signal: AbortSignal,
): Promise<number> {
  const target = await rollTarget({ arm, host, location }, signal);
  // A fleet without workers is refused before its server changes.
  await readScaleSet(target, signal);
  await installOnServer(remote, note, signal);
  const operator = remoteOperator(remote, signal);
  return await rollWorkers({ ...target, operator, note, ...(pollMs === undefined ? {} : { pollMs }) }, signal);
}

/** The calls with which an upgrade would replace the workers. @throws as {@link upgradeFleet} */
export async function plannedUpgrade(found: FoundHost, signal: AbortSignal): Promise<readonly ArmCall[]> {
  return await plannedRoll(await rollTarget(found, signal), signal);
}

async function rollTarget(
  { arm, host, location }: Pick<FoundHost, "arm" | "host" | "location">,
  signal: AbortSignal,
): Promise<RollTarget> {
  const fleet = namedFleet({ ...host, location });
  const { subscription, name } = fleet;
  const wanted = image(fleet, "");
  const found = await find(arm, fleet, wanted, signal);
  if (found?.properties?.provisioningState !== "Succeeded") {
    const message = `there is no image of version ${version}: 'osb azure image --name ${name} --location ${location}' builds it, from which the new workers start`;
    throw new SandboxError("unavailable", message);
  }
  const customData = Buffer.from(userDataOf(bootLine(fleet, { role: "worker" }))).toString("base64");
  return { arm, subscription, name, image: wanted.path, customData };
}

/**
 * Copies this program to the server and to each worker that answers, where running machines keep running. Workers that
 * are added later start from the image. @returns the number of workers
 */
export async function deployToFleet(
  { arm, host, remote }: FoundHost,
  note: (text: string) => void,
  signal: AbortSignal,
): Promise<number> {
  await installOnServer(remote, note, signal);
  const machines = await listMachines({ ...host, arm }, signal);
  const workers = (await listRemoteWorkers(remote, signal)).filter(({ state }) => state === "up");
  for (const worker of workers) {
    const address = new URL(worker.url).hostname;
    const vmId = machines.find((machine) => runsOn(worker, machine))?.vmId;
    note(`copying this program to the worker ${worker.id} on ${address}`);
    const through = { user: remote.user, address: remote.address };
    const onWorker = { ...remote, address, through, ...(vmId === undefined ? {} : { keyAlias: vmId }) };
    await deployTo(onWorker, { root: installationRoot, setupOptions: [], onLine: note }, signal);
  }
  return workers.length;
}

/** Copies this program to the server and repeats the server's first boot with it. Workers keep their machines meanwhile. */
async function installOnServer(remote: Remote, note: (text: string) => void, signal: AbortSignal): Promise<void> {
  const boot = await readBootLine(remote, signal);
  note("copying this program to the server");
  await deployTo(remote, { root: installationRoot, setupOptions: ["--prepare"], onLine: note }, signal);
  note("setting the server up");
  await runRemote(remote, `sudo ${boot}`, { onLine: note }, signal);
}

/** The command of the server's first boot, which the creation of the fleet put into the user data. */
async function readBootLine(remote: Remote, signal: AbortSignal): Promise<string> {
  const userData = await runRemote(remote, "sudo cat /var/lib/cloud/instance/user-data.txt", {}, signal);
  const [, line] = /^ {2}- \["sh","-c","(osb azure fleet boot --role server [\w .:/-]+)"\]$/m.exec(userData) ?? [];
  if (line !== undefined) return line;
  const message = `the user data of ${remote.address} has no 'osb azure fleet boot --role server': 'osb azure fleet create' did not make this server`;
  throw new SandboxError("unavailable", message);
}

/** A fleet with valid paths only: its bodies must not be sent. */
function namedFleet(host: FoundHost["host"]): AzureFleet {
  return { ...host, domain: undefined, workers: { min: 1, max: 1 } };
}
