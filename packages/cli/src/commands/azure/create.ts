import { isIP } from "node:net";
import { flag, list, text, whole } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";
import type { Context } from "../../context.ts";
import { checkName, defaultLocation, defaultName, defaultUser, targetOptions } from "./azure-options.ts";
import { ownAddress, readPublicKey } from "./operator.ts";
import type { SingleHost } from "./resource-manager/single-host.ts";
import type { Source } from "./install/user-data.ts";

export const create = defineCommand({
  summary: "Create a host on Azure, or continue an interrupted creation",
  description: `Makes a resource group with a virtual machine (Ubuntu 24.04, nested virtualization), a data disk, a network, a
security group and a public address; copies this checkout there, sets the host up and runs a first sandbox. Everything
carries the tag opensandbox=NAME. Existing resources stay, so the same command continues after an interruption.

Signs in as the user of 'az login', or with AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET. The server listens
on the host itself only; the result has the line for a tunnel. The security group lets in ssh from one address, and
HTTPS, for a server with a certificate.

Without --size, the command tries a list of sizes, and takes the first that the location has with free quota.`,
  options: {
    ...targetOptions,
    location: text("NAME", `the region (default: ${defaultLocation})`),
    size: list("the sizes to try, in order (default: Standard_D48as_v6, then others)"),
    dataDisk: whole("GIB", "the size of the data disk (default: 500)"),
    sshKey: text("FILE", "the administrator's public key (default: ~/.ssh/id_ed25519.pub or id_rsa.pub)"),
    sshFrom: text("ADDRESS", "the address or range that may use ssh (default: yours, from api.ipify.org)"),
    user: text("NAME", `the administrator (default: ${defaultUser})`),
    source: text("URL", "an archive of the program, which the first boot fetches instead"),
    sourceSha256: text("HEX", "the checksum of the archive"),
    noDeploy: flag("create the resources and install nothing"),
    dryRun: flag("print every call in order, with its body, and send none"),
  },
  examples: [
    { line: "azure create", shows: "create a host in eastus and run a first sandbox" },
    { line: "azure create --dry-run", shows: "show every call" },
    {
      line: "azure create --name lab --location westeurope --size Standard_D16s_v5",
      shows: "choose name, region and size",
    },
  ],
  check: ({ name, dataDisk, source, sourceSha256, sshFrom, user }) => {
    if ((source === undefined) !== (sourceSha256 === undefined)) return "--source and --source-sha256 belong together";
    if (sourceSha256 !== undefined && !/^[0-9a-f]{64}$/.test(sourceSha256))
      return "--source-sha256 takes 64 hexadecimal digits";
    if (source !== undefined && !source.startsWith("https://"))
      return "--source takes an address that begins with https://";
    if (dataDisk !== undefined && (dataDisk < 32 || dataDisk > 32_767)) return "--data-disk must be from 32 to 32767";
    if (sshFrom !== undefined && isIP(sshFrom.split("/")[0] ?? "") === 0)
      return "--ssh-from takes an address or a range such as 192.0.2.0/24";
    if (user !== undefined && !/^[a-z][a-z0-9_-]{0,31}$/.test(user)) return "--user takes the name of a Linux user";
    return checkName(name);
  },
  async run(input, context) {
    const { note, print, progress, signal } = context;
    const { defaultSizes } = await import("./resource-manager/single-host.ts");
    const sizes = input.size ?? defaultSizes;
    if (input.dryRun) {
      const { callLines, plannedCalls } = await import("./resource-manager/planned-calls.ts");
      const subscription = input.subscription ?? (context.host.env["AZURE_SUBSCRIPTION_ID"] || "SUBSCRIPTION");
      const host = await hostFrom(input, subscription, context);
      const calls = plannedCalls(host, sizes);
      await print(callLines(calls), calls);
      return 0;
    }
    using shown = progress();
    shown.report("signing in to Azure");
    const { findCredentials, publicEndpoint } = await import("./resource-manager/credentials.ts");
    const { ArmClient } = await import("./resource-manager/arm-client.ts");
    const { createHost } = await import("./resource-manager/create-host.ts");
    const credentials = await findCredentials(context.host.env, input.subscription, signal);
    const host = await hostFrom(input, credentials.subscription, context);
    const say = (text: string): void => {
      shown.pause();
      note(text);
      shown.report(text);
    };
    const created = await createHost({ arm: new ArmClient(credentials), host, sizes, note: say }, signal);
    const { hourlyPrice } = await import("./resource-manager/price.ts");
    const [deployed, price] = await Promise.all([
      input.noDeploy ? undefined : install({ input, created, host, say }, context),
      // The list has the prices of the public cloud.
      credentials.endpoint === publicEndpoint ? hourlyPrice(created.size, host.location, signal) : undefined,
    ]);
    shown.pause();
    const result = {
      name: host.name,
      ...created,
      ...deployed,
      ...(price === undefined ? {} : { dollarsPerHour: price }),
    };
    await print(summary(host, result, context.host.program), result);
    return 0;
  },
});

interface Input {
  readonly name?: string | undefined;
  readonly location?: string | undefined;
  readonly dataDisk?: number | undefined;
  readonly sshKey?: string | undefined;
  readonly sshFrom?: string | undefined;
  readonly user?: string | undefined;
  readonly source?: string | undefined;
  readonly sourceSha256?: string | undefined;
  readonly dryRun: boolean;
}

async function hostFrom(input: Input, subscription: string, { host, signal }: Context): Promise<SingleHost> {
  const { userData } = await import("./install/user-data.ts");
  return {
    subscription,
    name: input.name ?? defaultName,
    location: input.location ?? defaultLocation,
    user: input.user ?? defaultUser,
    sshKey:
      input.dryRun && input.sshKey === undefined ? "YOUR-PUBLIC-KEY" : await readPublicKey(input.sshKey, host.env),
    sshFrom: input.sshFrom ?? (input.dryRun ? "YOUR-ADDRESS" : await ownAddress(signal)),
    dataDiskGib: input.dataDisk ?? 500,
    osDiskGib: 100,
    userData: userData(sourceFrom(input), []),
  };
}

function sourceFrom({ source, sourceSha256 }: Input): Source | undefined {
  return source === undefined || sourceSha256 === undefined ? undefined : { url: source, sha256: sourceSha256 };
}

interface Installing {
  readonly input: Input;
  readonly created: { readonly address: string };
  readonly host: SingleHost;
  readonly say: (text: string) => void;
}

interface Installed {
  readonly apiKey?: string;
  /** What the first sandbox printed. */
  readonly sandbox: string;
}

async function install({ input, created, host, say }: Installing, context: Context): Promise<Installed> {
  const { waitForHost } = await import("./install/remote.ts");
  const { deployTo, readKey, runFirstSandbox } = await import("./install/deploy-host.ts");
  const { installationRoot } = await import("../../installation.ts");
  const remote = { user: host.user, address: created.address, env: context.host.env };
  const { signal } = context;
  say("waiting for the host to boot");
  await waitForHost(remote, signal);
  if (input.source === undefined) {
    say("copying this checkout and setting the host up");
    await deployTo(remote, { root: installationRoot, setupOptions: [], onLine: say }, signal);
  }
  say("running the first sandbox, which builds the image");
  const sandbox = await runFirstSandbox(remote, say, signal);
  const apiKey = await readKey(remote, signal);
  return { sandbox, ...(apiKey === undefined ? {} : { apiKey }) };
}

interface Result extends Partial<Installed> {
  readonly address: string;
  readonly hostname: string;
  readonly size: string;
  readonly dollarsPerHour?: number;
}

function summary(
  host: SingleHost,
  { address, hostname, size, sandbox, apiKey, dollarsPerHour }: Result,
  program: string,
): string {
  const price =
    dollarsPerHour === undefined ? "" : `, ${dollarsPerHour.toFixed(2)} US dollars an hour while it is not deallocated`;
  const lines = [`${host.name} runs at ${hostname} (${address}), size ${size}${price}`];
  if (sandbox === undefined)
    return [...lines, `Install OpenSandbox with: ${program} azure deploy --name ${host.name}`].join("\n");
  lines.push(`Its first sandbox printed: ${sandbox}`);
  if (apiKey !== undefined) lines.push(`API key: ${apiKey}`);
  lines.push(
    "",
    "Use it from here, with a tunnel in another terminal:",
    `  ssh -N -L 8080:127.0.0.1:8080 ${host.user}@${hostname}`,
    `  curl -s localhost:8080/api/sandboxes -H "X-API-Key: ${apiKey ?? "KEY"}"`,
  );
  return lines.join("\n");
}
