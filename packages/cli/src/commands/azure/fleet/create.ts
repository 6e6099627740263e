import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { flag } from "#arguments/inputs.ts";
import { defineCommand } from "../../../command.ts";
import type { Context } from "../../../context.ts";
import type { CreatedFleet } from "./create-fleet.ts";
import { checkFleetInput, type FleetInput, fleetFrom, fleetOptions, workersOptions } from "./fleet-input.ts";
import type { AzureFleet } from "./fleet-plan.ts";

export const create = defineCommand({
  summary: "Create a fleet on Azure, or continue an interrupted creation",
  description: `Makes a server with a public address, a scale set of workers in a private subnet, a PostgreSQL database, a
container of Azure Blob for snapshots, and a key vault with the secrets of the fleet. Hosts sign in to Azure with a managed
identity. Everything carries the tag opensandbox=NAME. Existing resources stay, so the same command continues after an
interruption.

Every host starts from the image that 'azure image' builds. This command needs the role Owner, or Contributor with User
Access Administrator, since it gives the identity its rights.

With --domain, Azure serves a zone with the domain and a wildcard, whose name servers the result lists. With a certificate,
the server serves HTTPS on port 443; without one, it is reached by a tunnel through ssh.`,
  options: {
    ...fleetOptions,
    ...workersOptions,
    noWait: flag("create the resources, and wait neither for the server nor for a worker"),
    dryRun: flag("print every call in order, with its body, and send none"),
  },
  examples: [
    { line: "azure fleet create", shows: "create a server and two workers in eastus" },
    { line: "azure fleet create --dry-run", shows: "show every call" },
    {
      line: "azure fleet create --domain sandboxes.example.com --tls-cert chain.pem --tls-key key.pem",
      shows: "serve HTTPS under a domain",
    },
  ],
  check: checkFleetInput,
  async run(input, context) {
    const { note, print, progress, signal } = context;
    const { defaultSizes } = await import("../resource-manager/single-host.ts");
    const { createFleet } = await import("./create-fleet.ts");
    const sizes = input.size ?? defaultSizes;
    const tls = await readCertificate(input);
    if (input.dryRun) {
      const { PlanningArm } = await import("./planning-arm.ts");
      const { callLines } = await import("../resource-manager/planned-calls.ts");
      const subscription = input.subscription ?? (context.host.env["AZURE_SUBSCRIPTION_ID"] || "SUBSCRIPTION");
      const fleet = await fleetFrom(input, subscription, context);
      const arm = new PlanningArm(fleet, sizes);
      const makeFleetToken = async (): Promise<string> => await Promise.resolve("");
      await createFleet({ arm, fleet, sizes, tls, makeFleetToken, note: () => undefined }, signal);
      await print(callLines(arm.calls), arm.calls);
      return 0;
    }
    using shown = progress();
    shown.report("signing in to Azure");
    const { findCredentials } = await import("../resource-manager/credentials.ts");
    const { ArmClient } = await import("../resource-manager/arm-client.ts");
    const credentials = await findCredentials(context.host.env, input.subscription, signal);
    const fleet = await fleetFrom(input, credentials.subscription, context);
    const say = (text: string): void => {
      shown.pause();
      note(text);
      shown.report(text);
    };
    const arm = new ArmClient(credentials);
    const created = await createFleet({ arm, fleet, sizes, tls, makeFleetToken, note: say }, signal);
    const first = input.noWait ? undefined : await runFirst(fleet, created, say, context);
    shown.pause();
    const result = { name: fleet.name, ...created, ...first };
    await print(summary(fleet, result, tls !== undefined), result);
    return 0;
  },
});

async function readCertificate({
  tlsCert,
  tlsKey,
}: FleetInput): Promise<{ readonly certificate: string; readonly key: string } | undefined> {
  if (tlsCert === undefined || tlsKey === undefined) return undefined;
  const [certificate, key] = await Promise.all(
    [tlsCert, tlsKey].map(async (file) => {
      const content = await readFile(file, "utf8").catch((cause: unknown) => {
        throw new SandboxError("invalid_argument", `cannot read ${file}: ${(cause as Error).message}`, { cause });
      });
      if (content.includes("-----BEGIN ")) return content;
      throw new SandboxError("invalid_argument", `${file} is not a PEM file`);
    }),
  );
  return { certificate: certificate ?? "", key: key ?? "" };
}

/** The token of a new fleet, which only the vault keeps. */
async function makeFleetToken(): Promise<string> {
  const { initFleet } = await import("@opensandbox/server/fleet.ts");
  const { readConfig } = await import("@opensandbox/server/config.ts");
  const directory = await mkdtemp(join(tmpdir(), "osb-azure-fleet-"));
  try {
    return (await initFleet(readConfig({ OPENSANDBOX_DATA_DIR: directory, OPENSANDBOX_MODE: "server" }))).token;
  } finally {
    await rm(directory, { recursive: true });
  }
}

interface First {
  readonly apiKey?: string;
  /** What the first sandbox printed. */
  readonly sandbox: string;
}

/** Waits for the server and a worker, and runs a sandbox. */
async function runFirst(
  fleet: AzureFleet,
  { address }: CreatedFleet,
  say: (text: string) => void,
  { host, signal }: Context,
): Promise<First> {
  const { waitForHost } = await import("../install/remote.ts");
  const { readKey, runFirstSandbox, waitForWorker } = await import("../install/deploy-host.ts");
  const remote = { user: fleet.user, address, env: host.env };
  say("waiting for the server to boot");
  await waitForHost(remote, signal);
  say("waiting for a worker");
  await waitForWorker(remote, signal);
  say("running the first sandbox");
  const sandbox = await runFirstSandbox(remote, say, signal);
  const apiKey = await readKey(remote, signal);
  return { sandbox, ...(apiKey === undefined ? {} : { apiKey }) };
}

function summary(
  { name, user, domain, workers }: AzureFleet,
  { address, hostname, serverSize, workerSize, nameServers, sandbox, apiKey }: CreatedFleet & Partial<First>,
  hasTls: boolean,
): string {
  const lines = [
    `${name} has its server at ${hostname} (${address}), size ${serverSize}, and ${workers.min} to ${workers.max} workers, size ${workerSize}`,
  ];
  if (nameServers.length > 0) lines.push(`Name servers of ${domain}, for its registrar: ${nameServers.join(", ")}`);
  if (sandbox !== undefined) lines.push(`Its first sandbox printed: ${sandbox}`);
  if (apiKey !== undefined) lines.push(`API key: ${apiKey}`);
  const request = (base: string): string => `  curl -s ${base}/api/sandboxes -H "X-API-Key: ${apiKey ?? "KEY"}"`;
  lines.push("");
  if (hasTls) return [...lines, "Use it from anywhere:", request(`https://${domain}`)].join("\n");
  lines.push(
    "Use it from here, with a tunnel in another terminal:",
    `  ssh -N -L 8080:127.0.0.1:8080 ${user}@${hostname}`,
  );
  return [...lines, request("localhost:8080")].join("\n");
}
