import type { System } from "../../host/system.ts";
import { dataDirectory } from "../../host/options.ts";
import { settingsFile } from "../../host/steps/settings.ts";
import { databaseUser, type SecretName, secretNames } from "./fleet-plan.ts";

export interface WorkerBoot {
  readonly role: "worker";
  /** The server of the fleet. */
  readonly server: string;
  readonly objectStore: string;
}

export interface ServerBoot {
  readonly role: "server";
  /** The host name of the database. */
  readonly database: string;
  readonly domain: string | undefined;
  readonly hasTls: boolean;
  /** The arguments of the command that fits the number of workers to their load. */
  readonly scale: readonly string[];
}

export interface Booting {
  readonly system: System;
  /** The absolute path of the program `opensandbox`. */
  readonly launcher: string;
  readonly boot: WorkerBoot | ServerBoot;
  readonly readSecret: (name: SecretName) => Promise<string>;
  /** Where this host asks for scheduled events. */
  readonly metadata: string;
}

/** Images of sandboxes on the system disk, as the image of hosts has them. */
export const preparedDirectory = "/opt/opensandbox/prepared";

/** Makes this host, which was started from the image of a fleet, a member of it. Can be repeated. */
export async function bootHost({ system, launcher, boot, readSecret, metadata }: Booting): Promise<void> {
  // Mounts the data disk, before anything is written there.
  await system.change(launcher, "host", "setup", "--prepare");
  const token = await readSecret(secretNames.fleetToken);
  await system.write(`${dataDirectory}/fleet-token`, `${token.trim()}\n`, 0o600);
  if (boot.role === "worker") {
    await copyImages(system);
    await writeSettings(system, {
      OPENSANDBOX_FLEET_URL: boot.server,
      OPENSANDBOX_OBJECT_STORE: boot.objectStore,
      OPENSANDBOX_OBJECT_STORE_KEY: await readSecret(secretNames.objectStoreKey),
      OPENSANDBOX_SCHEDULED_EVENTS: metadata,
    });
    await system.change(launcher, "host", "setup", "--role", "worker");
    return;
  }
  const password = encodeURIComponent(await readSecret(secretNames.databasePassword));
  await writeSettings(system, {
    OPENSANDBOX_DATABASE_URL: `postgres://${databaseUser}:${password}@${boot.database}/opensandbox?sslmode=require`,
    OPENSANDBOX_MASTER_KEY: await readSecret(secretNames.masterKey),
  });
  const options = boot.hasTls ? await storeCertificate(system, readSecret) : [];
  const domain = boot.domain === undefined ? [] : ["--domain", boot.domain];
  await system.change(launcher, "host", "setup", "--role", "server", ...domain, ...options);
  await addScaling(system, launcher, boot.scale);
}

/** Each image is moved into place as a whole. A host that was booted before has its own. */
async function copyImages(system: System): Promise<void> {
  const [from, to] = [`${preparedDirectory}/images`, `${dataDirectory}/images`];
  const present = new Set(await system.entries(to));
  for (const name of await system.entries(from)) {
    if (present.has(name)) continue;
    await system.change("mkdir", "--parents", to);
    await system.change("cp", "--archive", "--no-target-directory", `${from}/${name}`, `${to}/.${name}.copy`);
    await system.change("mv", "--no-target-directory", `${to}/.${name}.copy`, `${to}/${name}`);
  }
}

async function writeSettings(system: System, settings: Readonly<Record<string, string>>): Promise<void> {
  const lines = ((await system.read(settingsFile)) ?? "").split("\n").filter((line) => {
    return line !== "" && !Object.keys(settings).some((name) => line.startsWith(`${name}=`));
  });
  const own = Object.entries(settings).map(([name, value]) => `${name}=${value}`);
  await system.write(settingsFile, `${[...lines, ...own].join("\n")}\n`, 0o600);
}

/** The server's unit gives the data directory to the server's user, who reads the key there. */
async function storeCertificate(system: System, readSecret: Booting["readSecret"]): Promise<readonly string[]> {
  const [chain, key] = [`${dataDirectory}/tls/chain.pem`, `${dataDirectory}/tls/key.pem`];
  await system.write(chain, await readSecret(secretNames.tlsCertificate), 0o600);
  await system.write(key, await readSecret(secretNames.tlsKey), 0o600);
  return ["--listen", "0.0.0.0", "--port", "443", "--tls-cert", chain, "--tls-key", key];
}

const scalingUnit = "opensandbox-scale";

async function addScaling(system: System, launcher: string, words: readonly string[]): Promise<void> {
  const service = `[Unit]
Description=Fits the number of OpenSandbox workers to their load
After=network-online.target opensandbox-server.service
Wants=network-online.target

[Service]
Type=oneshot
# Waits for a change of the scale set.
TimeoutStartSec=1800
ExecStart=${launcher} azure fleet scale ${words.join(" ")}
`;
  const timer = `[Unit]
Description=Fits the number of OpenSandbox workers to their load

[Timer]
OnBootSec=5min
OnUnitInactiveSec=30s

[Install]
WantedBy=timers.target
`;
  await system.write(`/etc/systemd/system/${scalingUnit}.service`, service);
  await system.write(`/etc/systemd/system/${scalingUnit}.timer`, timer);
  await system.change("systemctl", "daemon-reload");
  await system.change("systemctl", "enable", "--now", `${scalingUnit}.timer`);
}
