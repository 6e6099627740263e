import { flag } from "#arguments/inputs.ts";
import { defineCommand } from "../../../command.ts";
import type { Context } from "../../../context.ts";
import type { Remote } from "../install/remote.ts";
import { checkFleetInput, fleetFrom, fleetOptions } from "./fleet-input.ts";

export const image = defineCommand({
  summary: "Build the image from which the hosts of a fleet start",
  description: `Makes a virtual machine, installs this program and the packages of a host there, builds the image of sandboxes,
captures the machine's disk as NAME-image-VERSION, and deletes the machine. A second run finds the image, and continues
after an interruption.`,
  options: { ...fleetOptions, dryRun: flag("print the first calls with their bodies, and send none") },
  examples: [
    { line: "azure image", shows: "build the image of this version in eastus" },
    { line: "azure image --name lab --location westeurope", shows: "build it for the fleet lab" },
  ],
  check: checkFleetInput,
  async run(input, context) {
    const { note, print, progress, signal } = context;
    const { defaultSizes } = await import("../resource-manager/single-host.ts");
    const { buildImage } = await import("./build-image.ts");
    const { userData } = await import("../install/user-data.ts");
    const sizes = input.size ?? defaultSizes.toReversed();
    const build = { sizes, note };
    if (input.dryRun) {
      const { PlanningArm } = await import("./planning-arm.ts");
      const { callLines } = await import("../resource-manager/planned-calls.ts");
      const subscription = input.subscription ?? (context.host.env["AZURE_SUBSCRIPTION_ID"] || "SUBSCRIPTION");
      const fleet = await fleetFrom(input, subscription, context);
      const arm = new PlanningArm(fleet, sizes, { hasImage: false });
      const host = { ...fleet, userData: userData(undefined, []) };
      await buildImage({ ...build, arm, host, install: async () => undefined, note: () => undefined }, signal);
      await print(callLines(arm.calls), arm.calls);
      return 0;
    }
    using shown = progress();
    shown.report("signing in to Azure");
    const { findCredentials } = await import("../resource-manager/credentials.ts");
    const { ArmClient } = await import("../resource-manager/arm-client.ts");
    const credentials = await findCredentials(context.host.env, input.subscription, signal);
    const fleet = await fleetFrom(input, credentials.subscription, context);
    const host = { ...fleet, userData: userData(undefined, []) };
    const say = (text: string): void => {
      shown.pause();
      note(text);
      shown.report(text);
    };
    const install = async (address: string): Promise<void> => {
      await prepare({ user: host.user, address, env: context.host.env }, say, context);
    };
    const id = await buildImage({ ...build, arm: new ArmClient(credentials), host, install, note: say }, signal);
    shown.pause();
    await print(`the image ${id} is ready`, { image: id });
    return 0;
  },
});

/** Installs everything that a host of a fleet has before it knows its fleet. */
async function prepare(remote: Remote, say: (text: string) => void, { signal }: Context): Promise<void> {
  const { runRemote, waitForHost } = await import("../install/remote.ts");
  const { deployTo } = await import("../install/deploy-host.ts");
  const { installationRoot } = await import("../../../installation.ts");
  const { preparedDirectory } = await import("./boot-host.ts");
  say("waiting for the machine to boot");
  await waitForHost(remote, signal);
  say("copying this program and installing the packages of a host");
  await deployTo(remote, { root: installationRoot, setupOptions: ["--prepare"], onLine: say }, signal);
  say("building the image of sandboxes");
  await runRemote(
    remote,
    `sudo env OPENSANDBOX_DATA_DIR=${preparedDirectory} osb image build default`,
    { onLine: say },
    signal,
  );
  // The user stays: this command may need it again. Identity and keys of the machine go.
  say("removing what belongs to this machine alone");
  await runRemote(remote, "sudo waagent -deprovision -force && sudo cloud-init clean --logs && sync", {}, signal);
}
