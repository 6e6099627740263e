import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ControlPlaneOptions } from "@opensandbox/control-plane";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ServerConfig } from "./config.ts";
import { databaseLocation } from "./database-location.ts";
import { storedMasterKeys } from "./keys/master-keys.ts";
import { dashboardPages, documentationPages } from "./pages/build-pages.ts";
import { providePages } from "./pages/provide-pages.ts";

type FromConfig = Omit<ControlPlaneOptions, "worker" | "isWorkerAlive" | "log">;

/** The control plane's part of the configuration. */
export async function controlPlaneOptions(config: ServerConfig): Promise<FromConfig> {
  return {
    database: databaseLocation(config),
    listen: { host: config.host, port: config.port },
    ...(config.apiKey === undefined ? {} : { apiKey: config.apiKey }),
    masterKeys: config.masterKeys ?? (await storedMasterKeys(config.dataDirectory)),
    ...(config.tls === undefined ? {} : { tls: await readTls(config.tls) }),
    callsPerSecond: config.maxOrganizationCalls,
    templateFilesDirectory: join(config.dataDirectory, "template-files"),
    ...(config.sshPort === undefined ? {} : { ssh: { host: config.sshHost, port: config.sshPort } }),
    region: config.region,
    sandboxDomain: config.sandboxDomain,
    apiHostnames: config.apiHostnames,
    dashboardFiles: () => providePages(dashboardPages, config.dataDirectory),
    documentationFiles: () => providePages(documentationPages, config.dataDirectory),
    customDomains: { proof: config.domainProof },
    webhooks: { destinations: config.webhookDestinations },
    defaults: {
      vcpus: config.defaultVcpus,
      memoryMib: config.defaultMemoryMib,
      workspaceMib: 20_480,
      idleTimeoutSeconds: 0,
    },
    limits: limitsFrom(config),
    autosaveMs: config.autosaveSeconds * 1000,
    auditDays: config.auditDays,
    ready: () => ({ ready: true }),
  };
}

/** 0 stands for no limit. */
function limitsFrom(config: ServerConfig) {
  const orNone = (mib: number): number | undefined => (mib === 0 ? undefined : mib);
  return {
    maxSandboxes: config.maxSandboxes,
    organizationMemoryMib: orNone(config.maxOrganizationMemoryMib),
    memoryMib: orNone(config.maxMemoryMib),
    organizationDiskMib: orNone(config.maxOrganizationDiskMib),
    diskMib: orNone(config.maxDiskMib),
  };
}

async function readTls({
  certFile,
  keyFile,
}: NonNullable<ServerConfig["tls"]>): Promise<{ cert: string; key: string }> {
  try {
    return { cert: await readFile(certFile, "utf8"), key: await readFile(keyFile, "utf8") };
  } catch (cause) {
    const message = `cannot read the TLS certificate or its key: ${(cause as Error).message}. Check OPENSANDBOX_TLS_CERT and OPENSANDBOX_TLS_KEY`;
    throw new SandboxError("unavailable", message, { cause });
  }
}
