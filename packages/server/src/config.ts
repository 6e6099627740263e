import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { RegistrySettings } from "@opensandbox/worker";
import { parseMasterKeys } from "./keys/parse-master-keys.ts";

/** The settings of a server. `README.md` lists the variables and defaults. */
export interface ServerConfig {
  /** `combined`: control plane and worker in one process. `server`: a control plane alone. `worker`: a worker alone. */
  readonly mode: "combined" | "server" | "worker";
  /** The token of the fleet. Absent: the one in the data directory. */
  readonly fleetToken?: string;
  /** The address on which this node listens for the fleet: a server for workers that join, a worker for servers. */
  readonly fleetHost: string;
  readonly fleetPort: number;
  /** The address that a worker gives to its server. Absent: this host's name and the port. */
  readonly fleetAddress?: string;
  /** The server that a worker joins. Absent: the one that `osb worker join` has stored. */
  readonly fleetUrl?: string;
  /** A worker pauses its machines when no server has asked for it for so long, in seconds; 0: never. */
  readonly fleetLeaseSeconds: number;
  /** How long a worker with a lease may be silent before its sandboxes continue elsewhere; 0: until an operator says so. */
  readonly fleetLostSeconds: number;
  /** The instance metadata service of Azure, whose scheduled events a worker of a fleet answers. Absent: none. */
  readonly scheduledEvents?: string;
  /** Where a worker of a fleet stores snapshots besides its host: the URL of a directory, of S3 or of Azure Blob. */
  readonly objectStore?: string;
  /** Encrypts what is stored there: 32 bytes. Every worker needs the same. */
  readonly objectStoreKey?: Buffer;
  /** The account of Azure Blob with its key. */
  readonly azureConnectionString?: string;
  readonly dataDirectory: string;
  readonly imagesDirectory: string;
  /** A PostgreSQL database, which replaces the SQLite file in the data directory. The URL may contain a password. */
  readonly databaseUrl?: string;
  /** How many connections to PostgreSQL this server may hold. */
  readonly databaseConnections: number;
  readonly host: string;
  readonly port: number;
  /** A fixed key that replaces the keys in the database. */
  readonly apiKey?: string;
  /** The keys that encrypt secrets, hexadecimal; the first one encrypts. Absent: those in the data directory. */
  readonly masterKeys?: readonly string[];
  /** Where metrics are served, by plain HTTP without a key. No port: nowhere. */
  readonly metricsHost: string;
  readonly metricsPort?: number;
  /** The OpenTelemetry collector that gets traces: the base address of OTLP over HTTP. Absent: nothing is traced. */
  readonly tracesEndpoint?: string;
  /** Where SSH connections to sandboxes are accepted. No port: nowhere. */
  readonly sshHost: string;
  readonly sshPort?: number;
  readonly region: string;
  /** Ports of sandboxes are served under host names in this domain. */
  readonly sandboxDomain: string;
  /** Host names that clients reach this server by. None of them can become a preview's custom domain. */
  readonly apiHostnames: readonly string[];
  /** Whether a DNS record must prove that a custom domain belongs to its organization. */
  readonly domainProof: "dns" | "none";
  /** Which addresses webhooks may have: those of the public internet, or also private ones and this host itself. */
  readonly webhookDestinations: "public" | "any";
  /** PEM files of a certificate chain and its key. If present, the server uses HTTPS. */
  readonly tls?: { readonly certFile: string; readonly keyFile: string };
  /** A PEM file of authorities that hosts of secrets may have, besides the well-known ones. */
  readonly secretsCaFile?: string;
  /** A PEM file of certificates that every guest trusts besides those of its image. */
  readonly extraCa?: string;
  readonly hypervisor: "qemu" | "firecracker" | "fake";
  /** Program and arguments of the agents of fake machines, for tests. No variable sets it. */
  readonly fakeAgent?: readonly [string, ...string[]];
  readonly accelerator: "auto" | "kvm" | "tcg";
  /** The processor of guests under KVM: `host`, or a model of QEMU that every host of a fleet has. */
  readonly cpuModel: string;
  readonly network: "auto" | "tap" | "user";
  readonly agentTransport: "auto" | "vsock" | "virtio-serial";
  readonly qemuProgram: string;
  readonly firecrackerProgram: string;
  readonly debianMirror?: string;
  /** The registries that images are pulled from, some by way of a mirror, as a list for {@link parseRegistries}. */
  readonly registries: string;
  /** The file with credentials of registries, in the form of Docker's config.json. */
  readonly registryCredentials?: string;
  /** The largest image that is pulled, in MiB of its uncompressed layers. */
  readonly maxImageMib: number;
  /** The kernel of guests and its module tree. Absent: Debian's. */
  readonly guestKernel?: { readonly kernel: string; readonly modules?: string };
  readonly defaultMemoryMib: number;
  readonly defaultVcpus: number;
  readonly maxSandboxes: number;
  /** Calls that an organization may make in a second, on average over some seconds; 0: any number. */
  readonly maxOrganizationCalls: number;
  /** Memory of an organization's active sandboxes together; 0: as much as the host has. */
  readonly maxOrganizationMemoryMib: number;
  /** Memory of all active sandboxes together; 0: as much as the host has. */
  readonly maxMemoryMib: number;
  /** Disk of an organization's sandboxes and snapshots together; 0: as much as the host has. */
  readonly maxOrganizationDiskMib: number;
  /** Disk of all sandboxes and snapshots together; 0: as much as the host has. */
  readonly maxDiskMib: number;
  /** Interval at which guests write buffered data to their disks, in seconds; 0: never. */
  readonly autosaveSeconds: number;
  /** How long a guest may take to boot, in seconds. */
  readonly bootSeconds: number;
  /** Restored machines to keep ready for new sandboxes. */
  readonly readyMachines: number;
  /** Templates, from which sandboxes are restored. Several data directories may share it. */
  readonly templatesDirectory: string;
  /** The most bytes that the cache keeps of what nothing uses. Absent: a fifth of the data directory's file system. */
  readonly cacheMaxBytes?: number;
  /** Days after which what nothing uses is removed, and rows of what has ended; 0: never. */
  readonly retentionDays: number;
  /** Days after which entries of the audit log are removed; 0: never. */
  readonly auditDays: number;
}

/** The environment variable of each setting, except for secrets. */
export const variables = {
  mode: "OPENSANDBOX_MODE",
  fleetHost: "OPENSANDBOX_FLEET_HOST",
  fleetPort: "OPENSANDBOX_FLEET_PORT",
  fleetAddress: "OPENSANDBOX_FLEET_ADDRESS",
  fleetUrl: "OPENSANDBOX_FLEET_URL",
  fleetLeaseSeconds: "OPENSANDBOX_FLEET_LEASE_SECONDS",
  fleetLostSeconds: "OPENSANDBOX_FLEET_LOST_SECONDS",
  scheduledEvents: "OPENSANDBOX_SCHEDULED_EVENTS",
  objectStore: "OPENSANDBOX_OBJECT_STORE",
  dataDirectory: "OPENSANDBOX_DATA_DIR",
  imagesDirectory: "OPENSANDBOX_IMAGES_DIR",
  databaseConnections: "OPENSANDBOX_DATABASE_CONNECTIONS",
  host: "OPENSANDBOX_HOST",
  port: "OPENSANDBOX_PORT",
  metricsHost: "OPENSANDBOX_METRICS_HOST",
  metricsPort: "OPENSANDBOX_METRICS_PORT",
  tracesEndpoint: "OPENSANDBOX_TRACES_ENDPOINT",
  sshHost: "OPENSANDBOX_SSH_HOST",
  sshPort: "OPENSANDBOX_SSH_PORT",
  region: "OPENSANDBOX_REGION",
  sandboxDomain: "OPENSANDBOX_SANDBOX_DOMAIN",
  apiHostnames: "OPENSANDBOX_API_HOSTNAMES",
  domainProof: "OPENSANDBOX_DOMAIN_PROOF",
  webhookDestinations: "OPENSANDBOX_WEBHOOK_DESTINATIONS",
  secretsCaFile: "OPENSANDBOX_SECRETS_CA_FILE",
  extraCa: "OPENSANDBOX_EXTRA_CA",
  hypervisor: "OPENSANDBOX_VM_BACKEND",
  accelerator: "OPENSANDBOX_ACCEL",
  cpuModel: "OPENSANDBOX_CPU_MODEL",
  network: "OPENSANDBOX_NETWORK",
  agentTransport: "OPENSANDBOX_AGENT_TRANSPORT",
  qemuProgram: "OPENSANDBOX_QEMU_BIN",
  firecrackerProgram: "OPENSANDBOX_FIRECRACKER_BIN",
  debianMirror: "OPENSANDBOX_DEBIAN_MIRROR",
  registries: "OPENSANDBOX_REGISTRIES",
  maxImageMib: "OPENSANDBOX_MAX_IMAGE_MB",
  defaultMemoryMib: "OPENSANDBOX_DEFAULT_SANDBOX_MEMORY_MB",
  defaultVcpus: "OPENSANDBOX_DEFAULT_SANDBOX_CPUS",
  maxSandboxes: "OPENSANDBOX_MAX_CAPACITY",
  maxOrganizationCalls: "OPENSANDBOX_MAX_ORGANIZATION_CALLS",
  maxOrganizationMemoryMib: "OPENSANDBOX_MAX_ORGANIZATION_MEMORY_MB",
  maxMemoryMib: "OPENSANDBOX_MAX_MEMORY_MB",
  maxOrganizationDiskMib: "OPENSANDBOX_MAX_ORGANIZATION_DISK_MB",
  maxDiskMib: "OPENSANDBOX_MAX_DISK_MB",
  autosaveSeconds: "OPENSANDBOX_AUTOSAVE_INTERVAL",
  bootSeconds: "OPENSANDBOX_BOOT_SECONDS",
  readyMachines: "OPENSANDBOX_READY_MACHINES",
  templatesDirectory: "OPENSANDBOX_TEMPLATES_DIR",
  cacheMaxBytes: "OPENSANDBOX_CACHE_MAX_BYTES",
  retentionDays: "OPENSANDBOX_RETENTION_DAYS",
  auditDays: "OPENSANDBOX_AUDIT_RETENTION_DAYS",
} as const satisfies Partial<Record<keyof ServerConfig, string>>;

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Reads the configuration from environment variables. Nothing else in the server reads the environment.
 * @throws `invalid_argument` with the name of the invalid variable
 */
export function readConfig(env: Environment): ServerConfig {
  const dataDirectory = resolve(env[variables.dataDirectory] || defaultDataDirectory(env));
  const hypervisor = oneOf(env, variables.hypervisor, ["qemu", "firecracker", "fake"]);
  if (hypervisor === "fake" && env["OPENSANDBOX_ALLOW_FAKE"] !== "1") {
    throw new SandboxError(
      "invalid_argument",
      "OPENSANDBOX_VM_BACKEND=fake runs plain processes without any isolation. To permit it, set OPENSANDBOX_ALLOW_FAKE=1",
    );
  }
  const apiKey = env["OPENSANDBOX_API_KEY"];
  const fleetToken = env["OPENSANDBOX_FLEET_TOKEN"];
  const debianMirror = env[variables.debianMirror];
  const secretsCaFile = env[variables.secretsCaFile];
  const extraCa = env[variables.extraCa];
  return {
    mode: oneOf(env, variables.mode, ["combined", "server", "worker"]),
    ...(fleetToken ? { fleetToken } : {}),
    fleetHost: env[variables.fleetHost] || "0.0.0.0",
    fleetPort: whole(env, variables.fleetPort, 8443, 0, 65_535),
    ...httpsFrom(env, "fleetAddress"),
    ...httpsFrom(env, "fleetUrl"),
    fleetLeaseSeconds: whole(env, variables.fleetLeaseSeconds, 0, 0, 86_400),
    fleetLostSeconds: whole(env, variables.fleetLostSeconds, 0, 0, 86_400),
    ...scheduledEventsFrom(env),
    ...objectStoreFrom(env),
    dataDirectory,
    imagesDirectory: resolve(env[variables.imagesDirectory] || join(dataDirectory, "images")),
    ...databaseFrom(env),
    databaseConnections: whole(env, variables.databaseConnections, 20, 2, 1000),
    host: env[variables.host] || "127.0.0.1",
    port: whole(env, variables.port, 8080, 0, 65_535),
    ...(apiKey ? { apiKey } : {}),
    ...masterKeysFrom(env),
    ...tlsFrom(env),
    metricsHost: env[variables.metricsHost] || "127.0.0.1",
    ...(env[variables.metricsPort] ? { metricsPort: whole(env, variables.metricsPort, 0, 0, 65_535) } : {}),
    ...tracesEndpointFrom(env),
    sshHost: env[variables.sshHost] || env[variables.host] || "127.0.0.1",
    ...(env[variables.sshPort] ? { sshPort: whole(env, variables.sshPort, 0, 0, 65_535) } : {}),
    region: env[variables.region] || "local",
    sandboxDomain: env[variables.sandboxDomain] || "localhost",
    apiHostnames: (env[variables.apiHostnames] ?? "")
      .split(",")
      .map((name) => name.trim())
      .filter((name) => name !== ""),
    domainProof: oneOf(env, variables.domainProof, ["dns", "none"]),
    webhookDestinations: oneOf(env, variables.webhookDestinations, ["public", "any"]),
    ...(secretsCaFile ? { secretsCaFile: resolve(secretsCaFile) } : {}),
    ...(extraCa ? { extraCa: resolve(extraCa) } : {}),
    hypervisor,
    accelerator: oneOf(env, variables.accelerator, ["auto", "kvm", "tcg"]),
    cpuModel: cpuModelFrom(env),
    network: oneOf(env, variables.network, ["auto", "tap", "user"]),
    agentTransport: oneOf(env, variables.agentTransport, ["auto", "vsock", "virtio-serial"]),
    qemuProgram: env[variables.qemuProgram] || "qemu-system-x86_64",
    firecrackerProgram: env[variables.firecrackerProgram] || "firecracker",
    ...(debianMirror ? { debianMirror } : {}),
    ...registriesFrom(env),
    maxImageMib: whole(env, variables.maxImageMib, 10_240, 1, maxMib),
    ...guestKernelFrom(env),
    defaultMemoryMib: whole(env, variables.defaultMemoryMib, 1024, 256, 65_536),
    defaultVcpus: whole(env, variables.defaultVcpus, 1, 1, 16),
    maxSandboxes: whole(env, variables.maxSandboxes, 50, 1, 10_000),
    maxOrganizationCalls: whole(env, variables.maxOrganizationCalls, 0, 0, 100_000),
    maxOrganizationMemoryMib: whole(env, variables.maxOrganizationMemoryMib, 0, 0, maxMib),
    maxMemoryMib: whole(env, variables.maxMemoryMib, 0, 0, maxMib),
    maxOrganizationDiskMib: whole(env, variables.maxOrganizationDiskMib, 0, 0, maxMib),
    maxDiskMib: whole(env, variables.maxDiskMib, 0, 0, maxMib),
    autosaveSeconds: whole(env, variables.autosaveSeconds, 300, 0, 86_400),
    bootSeconds: whole(env, variables.bootSeconds, 180, 30, 3600),
    readyMachines: whole(env, variables.readyMachines, 2, 0, 1000),
    templatesDirectory: resolve(env[variables.templatesDirectory] || join(dataDirectory, "templates")),
    ...(env[variables.cacheMaxBytes]
      ? { cacheMaxBytes: whole(env, variables.cacheMaxBytes, 0, 0, Number.MAX_SAFE_INTEGER) }
      : {}),
    retentionDays: whole(env, variables.retentionDays, 30, 0, 3650),
    auditDays: whole(env, variables.auditDays, 90, 0, 3650),
  };
}

function scheduledEventsFrom(env: Environment): Pick<ServerConfig, "scheduledEvents"> {
  const value = env[variables.scheduledEvents];
  if (!value) return {};
  const url = URL.parse(value);
  if (url !== null && /^https?:$/.test(url.protocol) && url.pathname === "/" && url.search === "")
    return { scheduledEvents: url.origin };
  throw new SandboxError(
    "invalid_argument",
    `${variables.scheduledEvents}=${value}: must be an address such as http://169.254.169.254`,
  );
}

function tracesEndpointFrom(env: Environment): Pick<ServerConfig, "tracesEndpoint"> {
  const value = env[variables.tracesEndpoint];
  if (!value) return {};
  const url = URL.parse(value);
  if (url !== null && /^https?:$/.test(url.protocol) && url.search === "" && url.hash === "" && url.username === "")
    return { tracesEndpoint: value.replace(/\/+$/, "") };
  throw new SandboxError(
    "invalid_argument",
    `${variables.tracesEndpoint}=${value}: must be the address of a collector, such as http://10.0.0.9:4318`,
  );
}

function objectStoreFrom(
  env: Environment,
): Pick<ServerConfig, "objectStore" | "objectStoreKey" | "azureConnectionString"> {
  const objectStore = env[variables.objectStore];
  if (!objectStore) return {};
  if (env[variables.mode] !== "worker") {
    const message = `${variables.objectStore} is a setting of workers: set it where OPENSANDBOX_MODE=worker`;
    throw new SandboxError("invalid_argument", message);
  }
  const azureConnectionString = env["AZURE_STORAGE_CONNECTION_STRING"];
  const key = env["OPENSANDBOX_OBJECT_STORE_KEY"];
  if (key && !/^[0-9a-f]{64}$/i.test(key)) {
    // The value is a secret.
    throw new SandboxError(
      "invalid_argument",
      "OPENSANDBOX_OBJECT_STORE_KEY must be 64 hexadecimal digits: make one with 'openssl rand -hex 32'",
    );
  }
  return {
    objectStore,
    ...(key ? { objectStoreKey: Buffer.from(key, "hex") } : {}),
    ...(azureConnectionString ? { azureConnectionString } : {}),
  };
}

function databaseFrom(env: Environment): Pick<ServerConfig, "databaseUrl"> {
  const databaseUrl = env["OPENSANDBOX_DATABASE_URL"];
  if (!databaseUrl) return {};
  if (/^postgres(?:ql)?:\/\//.test(databaseUrl)) return { databaseUrl };
  // The value may contain a password.
  throw new SandboxError("invalid_argument", "OPENSANDBOX_DATABASE_URL must begin with postgres://");
}

function masterKeysFrom(env: Environment): Pick<ServerConfig, "masterKeys"> {
  const value = env["OPENSANDBOX_MASTER_KEY"];
  if (!value) return {};
  try {
    return { masterKeys: parseMasterKeys(value.split(",")) };
  } catch (cause) {
    // Neither message has the value.
    const message = `OPENSANDBOX_MASTER_KEY: ${(cause as Error).message}`;
    throw new SandboxError("invalid_argument", message, { cause });
  }
}

/** A pebibyte: more than any host has. */
const maxMib = 2 ** 30;

function tlsFrom(env: Environment): Pick<ServerConfig, "tls"> {
  const [certName, keyName] = ["OPENSANDBOX_TLS_CERT", "OPENSANDBOX_TLS_KEY"] as const;
  const { [certName]: certFile, [keyName]: keyFile } = env;
  if (!certFile && !keyFile) return {};
  if (certFile && keyFile) return { tls: { certFile: resolve(certFile), keyFile: resolve(keyFile) } };
  const missing = certFile ? keyName : certName;
  throw new SandboxError(
    "invalid_argument",
    `${missing} is missing: set both OPENSANDBOX_TLS_CERT and OPENSANDBOX_TLS_KEY`,
  );
}

function httpsFrom<Name extends "fleetAddress" | "fleetUrl">(env: Environment, name: Name): { [N in Name]?: string } {
  const value = env[variables[name]];
  if (!value) return {};
  if (value.startsWith("https://") && URL.canParse(value)) return { [name]: value } as { [N in Name]: string };
  throw new SandboxError(
    "invalid_argument",
    `${variables[name]}=${value}: must be an address that begins with https://`,
  );
}

/** Reads the list once, so that a mistake is found at the start. */
function registriesFrom(env: Environment): Pick<ServerConfig, "registries" | "registryCredentials"> {
  const registries = env[variables.registries] || defaultRegistries.join(",");
  parseRegistries(registries);
  const credentials = env["OPENSANDBOX_REGISTRY_CREDENTIALS"];
  return { registries, ...(credentials ? { registryCredentials: resolve(credentials) } : {}) };
}

function guestKernelFrom(env: Environment): Pick<ServerConfig, "guestKernel"> {
  const [kernelName, modulesName] = ["OPENSANDBOX_GUEST_KERNEL", "OPENSANDBOX_GUEST_MODULES"] as const;
  const { [kernelName]: kernel, [modulesName]: modules } = env;
  if (!kernel && !modules) return {};
  if (!kernel) {
    throw new SandboxError(
      "invalid_argument",
      `${kernelName} is missing: ${modulesName} names the modules of a kernel`,
    );
  }
  return { guestKernel: { kernel: resolve(kernel), ...(modules ? { modules: resolve(modules) } : {}) } };
}

/** QEMU itself judges the name. This check keeps the value from adding options to QEMU's. */
function cpuModelFrom(env: Environment): string {
  const name = env[variables.cpuModel] || "host";
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) {
    throw new SandboxError(
      "invalid_argument",
      `${variables.cpuModel}=${name}: must be host or a model that qemu-system-x86_64 -cpu help lists`,
    );
  }
  return name;
}

function defaultDataDirectory(env: Environment): string {
  if (process.getuid?.() === 0) return "/var/lib/opensandbox";
  return join(env["XDG_DATA_HOME"] || join(homedir(), ".local/share"), "opensandbox");
}

/** The first choice is the default. */
function oneOf<const Choice extends string>(
  env: Environment,
  name: string,
  choices: readonly [Choice, ...Choice[]],
): Choice {
  const value = env[name] || choices[0];
  const choice = choices.find((known) => known === value);
  if (choice === undefined) {
    throw new SandboxError("invalid_argument", `${name}=${value}: must be one of ${choices.join(", ")}`);
  }
  return choice;
}

function whole(env: Environment, name: string, fallback: number, min: number, max: number): number {
  const value = env[name];
  if (value === undefined || value === "") return fallback;
  const number = Number(value);
  if (!/^\d+$/.test(value) || number < min || number > max) {
    throw new SandboxError("invalid_argument", `${name}=${value}: must be a whole number from ${min} to ${max}`);
  }
  return number;
}

/** The registries that most published images come from. */
const defaultRegistries: readonly string[] = [
  ...["docker.io", "ghcr.io", "quay.io", "gcr.io", "mcr.microsoft.com", "public.ecr.aws", "registry.k8s.io"],
  ...["registry.gitlab.com", "registry.fedoraproject.org"],
];

/**
 * Reads a list such as `ghcr.io,docker.io=http://mirror:5000`: registries, each with an optional origin to ask instead.
 * @throws `invalid_argument` for an origin that is no http or https URL
 */
export function parseRegistries(list: string): Pick<RegistrySettings, "allowed" | "mirrors"> {
  const entries = list.split(",").map((entry) => entry.trim().split("="));
  const mirrors: Record<string, string> = {};
  for (const [name = "", origin] of entries) {
    if (origin === undefined) continue;
    const url = URL.parse(origin);
    if (url === null || !["http:", "https:"].includes(url.protocol) || url.pathname !== "/" || url.username !== "") {
      throw new SandboxError("invalid_argument", `${origin} is no origin such as https://registry.example`);
    }
    mirrors[name] = url.origin;
  }
  return { allowed: entries.map(([name = ""]) => name).filter(Boolean), mirrors };
}
