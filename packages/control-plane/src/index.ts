import type { Server } from "node:http";
import type { Socket } from "node:net";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { dashboardPath } from "@opensandbox/wire/dashboard.ts";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Tracer } from "@opensandbox/wire/tracing.ts";
import type { Worker, WorkerDescription } from "@opensandbox/wire/worker/worker.ts";
import { systemClock, type Clock } from "./clock.ts";
import { AuditLog } from "./audit/audit-log.ts";
import type { Log } from "./log.ts";
import { RowRetention } from "./retention/row-retention.ts";
import { DiskSweep } from "./service/sweep-disk.ts";
import { regularly } from "./service/regularly.ts";
import { copyDaily } from "#database/copies.ts";
import { type Database, openDatabase } from "#database/database.ts";
import type { DatabaseLocation } from "#database/database-server.ts";
import { serverKey } from "#database/server-key.ts";
import type { E2bContext } from "#e2b/e2b-context.ts";
import { defaultTiming, type Timing, type Tls } from "#http/api-context.ts";
import { RequestMetrics } from "#http/requests/request-metrics.ts";
import { buildServer, listen } from "#http/server.ts";
import type { Metric } from "#metrics/metric.ts";
import { rowMetrics } from "#metrics/row-metrics.ts";
import { post, type ResolveHost } from "#http/webhooks/post.ts";
import { OpenCalls } from "#http/requests/open-calls.ts";
import { Builds } from "#images/builds.ts";
import type { ImageContext } from "#images/image-context.ts";
import { ImageStore } from "#images/image-store.ts";
import { reconcileImages } from "./images/reconcile-images.ts";
import { BuildLogs } from "./templates/build-logs.ts";
import { reconcileTemplates } from "./templates/manage-templates.ts";
import type { TemplateContext } from "./templates/template-context.ts";
import { TemplateFiles } from "./templates/template-files.ts";
import { TemplateStore } from "./templates/template-store.ts";
import { AutoscaleSweep } from "./autoscale/autoscale-sweep.ts";
import { LifetimeSweep } from "#lifetimes/end-lifetimes.ts";
import { LifetimeStore } from "#lifetimes/lifetime-store.ts";
import { AccessTokens } from "#organizations/access-tokens.ts";
import { CallRates } from "#http/requests/call-rates.ts";
import { ApiKeyStore } from "#organizations/api-key-store.ts";
import { apiKeyRecognizer, authenticator, makeDefaultOrganization, makeFirstApiKey } from "#organizations/api-keys.ts";
import { answerGuests } from "#sandboxes/answer-guests.ts";
import type { ServerMembership } from "./servers/server-group.ts";
import type { SharedGates } from "./servers/shared-gates.ts";
import { onlyServer, SharedServers } from "./servers/servers.ts";
import { takeOver } from "./service/take-over.ts";
import { DashboardSessions } from "#organizations/dashboard-sessions.ts";
import { OrganizationStore } from "#organizations/organization-store.ts";
import { MasterKeys } from "#secrets/master-keys.ts";
import { SecretsOfSandboxes } from "#secrets/sandbox-secrets.ts";
import { SecretRows } from "#secrets/secret-rows.ts";
import { HostPorts } from "#previews/host-ports.ts";
import { type DomainProof, DomainProofs, type ResolveTxt } from "#previews/domain-proofs.ts";
import { PreviewStore } from "#previews/preview-store.ts";
import { hostnameOf, PreviewTargets } from "#previews/preview-target.ts";
import { autosave } from "./service/autosave.ts";
import { endService, type AtEnd } from "./service/end-service.ts";
import type { Limits } from "./lifecycle/limits.ts";
import { onlyWorker } from "./lifecycle/placement.ts";
import type { SandboxContext, SandboxDefaults } from "./lifecycle/sandbox-context.ts";
import { openSandboxes } from "./service/open-sandboxes.ts";
import type { OpenWorkers } from "./service/open-workers.ts";
import { IdleSweep } from "./service/sweep-sandboxes.ts";
import { heartbeatMs } from "#events/heartbeats.ts";
import type { ConnectionLimits, SshGateway } from "#ssh/ssh-gateway.ts";
import { SshKeyStore } from "#ssh/ssh-key-store.ts";
import { UseSweep } from "./usage/use-sweep.ts";
import { openWebhooks } from "#webhooks/open-webhooks.ts";

export { backUpDatabase, type DatabaseContents, tryDatabase } from "#database/contents.ts";
export { type CopiedTable, copyToServer } from "#database/postgres/copy-to-server.ts";
export { type DatabaseLocation, describeDatabase } from "#database/database-server.ts";
export { acquireServerLease, type ServerLease } from "#database/postgres/server-lease.ts";
export { joinServers, type ServerMembership } from "./servers/server-group.ts";
export { type MigratedDatabase, migrateDatabase } from "#database/migrate-database.ts";
export { type Administration, openAdministration } from "#organizations/administration.ts";
export type { ApiKey } from "#organizations/api-key-store.ts";
export type { Organization } from "#organizations/organization-store.ts";
export { openRowRetention, RowRetention, type UnnamedImage } from "./retention/row-retention.ts";
export type { Metric };
export type { AtEnd } from "./service/end-service.ts";

export interface ControlPlaneOptions {
  /** The worker, or the function that opens the workers of a fleet. */
  readonly worker: Worker | OpenWorkers;
  /** An SQLite file, which is created when missing, or a PostgreSQL database. Several processes may share it. */
  readonly database: DatabaseLocation;
  /** This server among several that use the PostgreSQL database and the same workers. Absent: it uses them alone. */
  readonly membership?: Pick<ServerMembership, "id" | "database"> | undefined;
  /** Port 0: any free port. */
  readonly listen: { readonly host: string; readonly port: number };
  /** Where SSH connections to sandboxes are accepted. Port 0: any free port. Absent: nowhere. */
  readonly ssh?: { readonly host: string; readonly port: number } | undefined;
  /** The only key that is accepted. Absent: those in the database, which gets a first key when it has none. */
  readonly apiKey?: string;
  /** Calls that an organization may make in a second, on average over some seconds; 0: any number. Default: 0. */
  readonly callsPerSecond?: number;
  /** Where files that clients upload for templates are kept. It is made when the first file arrives. */
  readonly templateFilesDirectory: string;
  readonly region: string;
  readonly sandboxDomain: string;
  /** Host names that clients reach the API by. They cannot become the custom domain of a preview. */
  readonly apiHostnames?: readonly string[];
  /** How custom domains of previews are proved. Default: by DNS, with the name servers of this host. */
  readonly customDomains?: { readonly proof?: DomainProof; readonly resolveTxt?: ResolveTxt };
  /** The keys that encrypt secrets, hexadecimal: the first one encrypts. Default: none, and secrets are refused. */
  readonly masterKeys?: readonly string[];
  readonly webhooks?: {
    /** Which addresses events are delivered to. Default: those of the public internet. */
    readonly destinations?: "public" | "any";
    /** The addresses of a host name. Default: by DNS. */
    readonly resolve?: ResolveHost;
  };
  /** Provides the directory of the built dashboard when it is first opened. Absent: this server has no dashboard. */
  readonly dashboardFiles?: () => Promise<string>;
  /** Provides the directory of the built documentation when it is first opened. Absent: the API's page alone. */
  readonly documentationFiles?: () => Promise<string>;
  /** Serves HTTPS instead of HTTP. */
  readonly tls?: Tls | undefined;
  /** Whether a worker is alive in any process of this host. */
  isWorkerAlive(workerId: string): boolean;
  readonly defaults: SandboxDefaults;
  /** Default: 50 active sandboxes for each organization. */
  readonly limits?: Partial<Limits>;
  ready(): { readonly ready: boolean; readonly reason?: string };
  /** Serves a single command: its sandboxes are ephemeral, and it adopts none. Default: false. */
  readonly ephemeral?: boolean;
  /** Decides what happens to the sandboxes when the shutdown begins. Default: `hibernate`, or `stop` when ephemeral. */
  atEnd?(): AtEnd;
  /** The deadline of the shutdown in milliseconds; sandboxes that are left run on, for the next server. Default: 5 minutes. */
  readonly endWithinMs?: number;
  /** How often guests flush their dirty pages, in milliseconds; 0: never. Default: 300000. */
  readonly autosaveMs?: number;
  /** Days after which entries of the audit log are removed; 0: never. Default: never. */
  readonly auditDays?: number;
  readonly log: Log;
  /** Absent: requests are not traced. */
  readonly tracer?: Tracer | undefined;
  /** Runs after an image without a name was built: the cache has grown. */
  onImageBuilt?(): void;
  /** Values that tests override. */
  readonly tuning?: {
    readonly clock?: Clock;
    readonly timing?: Partial<Timing>;
    readonly sweepMs?: number;
    readonly diskSweepMs?: number;
    readonly revokedMs?: number;
    readonly farewellMs?: number;
    readonly ssh?: Partial<ConnectionLimits>;
  };
}

/** Disposing stops accepting, ends requests, hibernates or stops the worker's sandboxes and closes the database, in that order. */
export interface ControlPlane extends AsyncDisposable {
  readonly url: string;
  /** The worker, or what the workers of the fleet can do together. */
  readonly description: WorkerDescription;
  /** The plain text of the first key, when this start made it. It is stored nowhere. */
  readonly firstApiKey?: string;
  /** The address of the dashboard, with a code that signs in once, within 15 minutes. */
  createSignInLink(): string;
  /** The rows that are kept for a time only. */
  readonly rows: RowRetention;
  /** What an operator watches. @throws the database's error when it does not answer */
  metrics(): Promise<readonly Metric[]>;
  /** Removes the files of snapshots that no row refers to and that no operation reads. */
  removeUnwantedSnapshots(): Promise<void>;
}

// How often what machines have used is stored, which a crash of the host loses.
const measureUseMs = 60_000;
// How often the age of the database's daily copy is checked.
const copyMs = 3_600_000;
// The interval of the idle sweep: a hibernation comes at most this late.
const defaultSweepMs = 1000;
// The interval of the sweep of set ends, which clients expect to the second.
const lifetimeSweepMs = 500;
/** PSI averages over ten seconds. */
const autoscaleMs = 10_000;
// The interval between removals of the set ends of ended sandboxes, which are harmless.
const forgetLifetimesMs = 3_600_000;
// The interval between removals of unused certificate authorities, and the age before which none is removed.
const forgetAuthoritiesMs = 3_600_000;
// The interval between attempts to remove snapshots, which is not urgent.
const removeUnwantedMs = 60_000;
// The interval of the disk sweep. A guest writes a few gigabytes meanwhile at most.
const diskSweepMs = 10_000;
// The interval between sweeps of forwarded ports. A port whose sandbox has ended is harmless.
const closeEndedPortsMs = 60_000;
// The interval at which open calls are compared with the keys in the database.
const closeRevokedMs = 15_000;
// The interval of the removal of old audit entries.
const removeAuditMs = 3_600_000;
// Files of templates are kept for days.
const removeTemplateFilesMs = 3_600_000;
// The interval at which a server looks whether another one has ended.
const lookMs = 500;
const defaultEndWithinMs = 300_000;
const defaultAutosaveMs = 300_000;
// Time for interrupted requests to send their answers.
const defaultFarewellMs = 1000;

/** Starts the control plane. A failed start leaves nothing. @throws `unavailable` when the port is in use or the database unusable */
export async function startControlPlane(options: ControlPlaneOptions, signal?: AbortSignal): Promise<ControlPlane> {
  const { log, tuning = {} } = options;
  const clock = tuning.clock ?? systemClock;
  await using undo = new AsyncDisposableStack();

  const database = await openDatabase(options.database, { log });
  undo.defer(() => database.destroy());
  if (options.ephemeral !== true && typeof options.database === "string") {
    undo.use(await keepCopy(database, options.database, { clock, log }));
  }
  signal?.throwIfAborted();
  await makeDefaultOrganization(database, clock.now());
  const firstApiKey = options.apiKey === undefined ? await makeFirstApiKey(database, clock.now()) : undefined;

  const shared = options.membership && undo.use(await shareWith(options.membership, { database, log }));
  const servers = shared?.servers ?? onlyServer;
  const onDuty = (work: () => Promise<void>) => async (): Promise<void> => {
    if (servers.isOnDuty) await work();
  };
  // The first server is on duty before it asks its workers.
  const found = await shared?.servers.look();
  const workers =
    typeof options.worker === "function"
      ? undo.use(await options.worker({ database, clock, log, servers }))
      : { worker: options.worker, placement: onlyWorker(options.worker) };
  const { worker } = workers;
  const secretRows = new SecretRows(database, new MasterKeys(options.masterKeys ?? []));
  const { encrypted, unreadable } = await secretRows.encryptAgain();
  if (encrypted > 0) log("info", "secrets were encrypted with a new master key", { secrets: encrypted });
  if (unreadable > 0) {
    log(
      "error",
      "secrets need a master key that this server does not have: add the earlier key after the present one",
      {
        secrets: unreadable,
      },
    );
  }

  const ending = new AbortController();
  const cutOff = new AbortController();
  const sandboxes = await openSandboxes({
    worker,
    placement: workers.placement,
    database,
    clock,
    log,
    settings: {
      defaults: options.defaults,
      limits: { maxSandboxes: 50, ...options.limits },
      ephemeral: options.ephemeral ?? false,
    },
    isWorkerAlive: (workerId) => options.isWorkerAlive(workerId),
    secrets: new SecretsOfSandboxes(secretRows, await serverKey(database, "sealed secrets")),
    shutdown: { ending: ending.signal, cutOff: cutOff.signal },
    servers,
    gates: shared?.gates,
  });
  if (shared !== undefined && "reconcile" in workers) shared.gates.onInherited = (id) => workers.reconcile(id);
  // Disposed after the sandboxes, whose last events are then delivered as far as there is time.
  const { destinations = "public", resolve } = options.webhooks ?? {};
  const allowsPrivate = destinations === "any";
  const webhooks = undo.use(
    await openWebhooks(sandboxes, {
      ...{ database, sandboxDomain: options.sandboxDomain, allowsPrivate },
      post: (request) => post(request, { allowsPrivate, resolve }),
    }),
  );
  const beat = (): Promise<void> => sandboxes.stores.heartbeats.beat(worker.id, clock.now());
  await beat();
  undo.use(regularly({ what: "noting that this server is alive", everyMs: heartbeatMs, log }, onDuty(beat)));
  const use = new UseSweep(sandboxes, measureUseMs);
  const counting = { what: "counting what machines have used", everyMs: measureUseMs, log };
  // Disposed after the sandboxes: their machines have then used what they use.
  undo.defer(async () => {
    await onDuty(() => use.run())().catch((error: unknown) =>
      log("warn", "cannot count what the ended machines have used", describeError(error)),
    );
  });
  undo.defer(async () => {
    const atEnd = options.atEnd?.() ?? (sandboxes.settings.ephemeral ? "stop" : "hibernate");
    const withinMs = atEnd === "stop" ? 0 : (options.endWithinMs ?? defaultEndWithinMs);
    using _ = abortAfter(withinMs, cutOff, "the server's shutdown reached its deadline");
    await endService(sandboxes, atEnd);
  });
  if ("start" in workers) await workers.start(sandboxes);

  undo.use(
    regularly(
      counting,
      onDuty(() => use.run()),
    ),
  );
  const idle = new IdleSweep(sandboxes);
  const sweeping = { what: "hibernating idle sandboxes", everyMs: tuning.sweepMs ?? defaultSweepMs, log };
  undo.use(regularly(sweeping, () => idle.run()));
  const unwanted = { what: "removing unwanted snapshots", everyMs: removeUnwantedMs, log };
  undo.use(
    regularly(
      unwanted,
      onDuty(() => sandboxes.snapshots.removeUnwanted()),
    ),
  );
  const diskSweep = new DiskSweep(sandboxes);
  const diskLimits = { what: "comparing disk use with its limits", everyMs: tuning.diskSweepMs ?? diskSweepMs, log };
  undo.use(
    regularly(
      diskLimits,
      onDuty(() => diskSweep.run()),
    ),
  );
  const autoscale = new AutoscaleSweep(sandboxes);
  const scaling = {
    what: "setting the memory of sandboxes by their load",
    everyMs: tuning.sweepMs ?? autoscaleMs,
    log,
  };
  undo.use(
    regularly(
      scaling,
      onDuty(() => autoscale.run()),
    ),
  );
  const autosaveMs = options.autosaveMs ?? defaultAutosaveMs;
  if (autosaveMs > 0) {
    undo.use(autosave({ worker, running: () => runningHere(sandboxes), everyMs: autosaveMs, log }));
  }

  const lifetimes = new LifetimeStore(database);
  const lifetimeSweep = new LifetimeSweep(sandboxes, lifetimes);
  const ends = { what: "ending sandboxes at their set times", everyMs: tuning.sweepMs ?? lifetimeSweepMs, log };
  undo.use(
    regularly(
      ends,
      onDuty(() => lifetimeSweep.run()),
    ),
  );
  const forgotten = { what: "removing the set ends of ended sandboxes", everyMs: forgetLifetimesMs, log };
  undo.use(
    regularly(
      forgotten,
      onDuty(() => lifetimes.removeStopped()),
    ),
  );

  const authorities = { what: "removing unused certificate authorities", everyMs: forgetAuthoritiesMs, log };
  const unused = (): Promise<void> => secretRows.removeUnusedAuthorities(new Date(clock.now() - forgetAuthoritiesMs));
  undo.use(regularly(authorities, onDuty(unused)));

  const retention = new RowRetention(database);
  const images: ImageContext = {
    sandboxes,
    images: new ImageStore(database),
    builds: new Builds(),
    retention,
    onBuilt: () => options.onImageBuilt?.(),
  };
  if (shared === undefined) await reconcileImages(images);
  undo.defer(() => images.builds.idle());
  const templates: TemplateContext = {
    images,
    templates: new TemplateStore(database),
    files: new TemplateFiles(options.templateFilesDirectory),
    logs: new BuildLogs(),
  };
  if (shared === undefined) await reconcileTemplates(templates);
  const oldFiles = { what: "removing old files of templates", everyMs: removeTemplateFilesMs, log };
  undo.use(regularly(oldFiles, () => templates.files.removeOld(clock.now())));

  const previews = new PreviewStore(database, sandboxes.stores.events);
  const hostPorts = undo.use(new HostPorts(sandboxes));
  const openPorts = async (): Promise<void> => {
    for (const sandbox of await sandboxes.stores.sandboxes.listForwarded()) await hostPorts.open(sandbox);
  };
  if (shared === undefined) await openPorts();
  else {
    const take = async (work: "duty" | "rest" | undefined): Promise<void> => {
      if (work === undefined) return;
      if ("reconcileAll" in workers) workers.reconcileAll();
      if (work === "duty") answerGuests(sandboxes);
      await takeOver(templates, shared.gates);
      // A port that another server has opened stays with it.
      if (shared.servers.isAlone) await openPorts();
    };
    await take(found);
    const looking = { what: "taking over from ended servers", everyMs: lookMs, log };
    undo.use(regularly(looking, async () => await take(await shared.servers.look())));
  }
  const endedPorts = { what: "closing the ports of ended sandboxes", everyMs: closeEndedPortsMs, log };
  undo.use(regularly(endedPorts, () => hostPorts.sweep()));

  const apiHostnames = new Set(
    [...(options.apiHostnames ?? []), options.listen.host, options.sandboxDomain, hostname()].map(hostnameOf),
  );
  const { proof = "dns", resolveTxt } = options.customDomains ?? {};
  const proofKey = await serverKey(database, "custom domains");
  const domainProofs = new DomainProofs({ proof, key: proofKey, store: previews, clock, log, resolveTxt });
  const audit = undo.use(new AuditLog(database, clock, log));
  if (options.auditDays !== undefined && options.auditDays > 0) {
    const keptMs = options.auditDays * 86_400_000;
    const oldEntries = { what: "removing old entries of the audit log", everyMs: removeAuditMs, log };
    undo.use(regularly(oldEntries, async () => void (await audit.removeOld(new Date(clock.now() - keptMs)))));
  }
  const openCalls = new OpenCalls();
  const keys = new ApiKeyStore(database);
  const revoked = { what: "closing the calls of revoked keys", everyMs: tuning.revokedMs ?? closeRevokedMs, log };
  undo.use(
    regularly(revoked, async () => {
      const ids = openCalls.keyIds;
      const accepted = await keys.accepted(ids, clock.now());
      for (const id of ids) if (!accepted.has(id)) openCalls.close(id);
    }),
  );
  const tokens = new AccessTokens({ key: await serverKey(database, "short-lived tokens"), keys, clock });
  const sessions = new DashboardSessions({
    key: await serverKey(database, "sessions of the dashboard"),
    staticKey: options.apiKey,
    clock,
  });
  const organizations = new OrganizationStore(database);
  const isKey = apiKeyRecognizer(options.apiKey);
  const callRates = new CallRates(options.callsPerSecond ?? 0, clock);
  const ssh: { readonly keys: SshKeyStore; gateway?: SshGateway } = { keys: new SshKeyStore(database) };
  const api: E2bContext = {
    lifetimes,
    prepared: new Map(),
    tokenKey: await serverKey(database, "access tokens of sandboxes"),
    sandboxes,
    images,
    templates,
    audit,
    openCalls,
    tokens,
    callRates,
    keys: { store: keys, areStatic: options.apiKey !== undefined },
    ssh,
    authenticate: authenticator({ database, staticKey: options.apiKey, clock, log, tokens }),
    isApiKey: (text) => isKey(text) || tokens.isToken(text.trim()),
    apiHostnames,
    signingKey: await serverKey(database, "signed URLs"),
    previews,
    domainProofs,
    previewTargets: new PreviewTargets({ store: previews, proofs: domainProofs, apiHostnames, clock }),
    hostPorts,
    webhooks: webhooks.webhooks,
    secretRows,
    dashboard: {
      sessions,
      files: options.dashboardFiles,
      organization: async ({ organizationId }) => {
        const { id, name } = await organizations.get(organizationId);
        return { id, name };
      },
    },
    documentationFiles: options.documentationFiles,
    tls: options.tls,
    place: {
      region: options.region,
      sandboxDomain: options.sandboxDomain,
      get hypervisor() {
        return worker.description.hypervisor;
      },
      get networkNotEnforced() {
        return worker.description.network.notEnforced;
      },
    },
    ready: () => options.ready(),
    timing: { ...defaultTiming, ...tuning.timing },
  };
  const requests = new RequestMetrics();
  const app = await buildServer(api, requests, options.tracer);
  const connections = openConnections(app.server);
  undo.defer(async () => {
    ending.abort(new SandboxError("unavailable", "the server is shutting down"));
    const closed = app.close();
    app.server.closeIdleConnections();
    await Promise.race([closed, sleep(tuning.farewellMs ?? defaultFarewellMs)]);
    for (const connection of connections) connection.destroy();
    await closed;
  });
  const url = await listen(app, options.listen);
  if (options.ssh !== undefined) {
    const { startSshGateway } = await import("#ssh/ssh-gateway.ts");
    ssh.gateway = undo.use(
      await startSshGateway({
        ...{ sandboxes, keys: ssh.keys, audit, listen: options.ssh },
        takeCall: (organizationId) => callRates.take(organizationId),
        hostKeySeed: await serverKey(database, "SSH host key"),
        revokedMs: tuning.revokedMs ?? closeRevokedMs,
        limits: tuning.ssh ?? {},
      }),
    );
  }
  signal?.throwIfAborted();

  const owned = undo.move();
  return {
    url,
    get description() {
      return worker.description;
    },
    ...(firstApiKey === undefined ? {} : { firstApiKey }),
    createSignInLink: () => `${url}${dashboardPath}#sign-in=${sessions.createLink()}`,
    rows: retention,
    metrics: async () => [
      ...requests.metrics,
      ...(await rowMetrics(database, clock)),
      ...("metrics" in workers ? await workers.metrics() : []),
    ],
    removeUnwantedSnapshots: () => sandboxes.snapshots.removeUnwanted(),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Keeps a copy of the database beside it, which is at most about a day old. */
async function keepCopy(
  database: Database,
  file: string,
  { clock, log }: { readonly clock: Clock; readonly log: Log },
): Promise<AsyncDisposable> {
  const copy = (): Promise<void> => copyDaily(database, file, clock.now());
  // A host without room for the copy can still serve.
  await copy().catch((error: unknown) =>
    log("warn", "cannot make the daily copy of the database", describeError(error)),
  );
  return regularly({ what: "the daily copy of the database", everyMs: copyMs, log }, copy);
}

/** All connections, including those that became WebSockets, which the server no longer counts. */
function openConnections(server: Server): ReadonlySet<Socket> {
  const connections = new Set<Socket>();
  server.on("connection", (connection: Socket) => {
    connections.add(connection);
    connection.once("close", () => connections.delete(connection));
  });
  return connections;
}

async function runningHere({ stores, placement, servers }: SandboxContext): Promise<SandboxId[]> {
  if (!servers.isOnDuty) return [];
  const running = await stores.sandboxes.listRunning();
  return running.filter(({ workerId }) => placement.includes(workerId)).map(({ id }) => id);
}

interface Shared extends AsyncDisposable {
  readonly servers: SharedServers;
  readonly gates: SharedGates;
}

/** What lets this server use rows and workers together with others, loaded by this call. */
async function shareWith(
  { id, database: server }: Pick<ServerMembership, "id" | "database">,
  { database, log }: { readonly database: Database; readonly log: Log },
): Promise<Shared> {
  const { SharedGates } = await import("./servers/shared-gates.ts");
  const gates = new SharedGates({ database, server, serverId: id, log });
  return {
    servers: new SharedServers(database, id),
    gates,
    [Symbol.asyncDispose]: () => gates[Symbol.asyncDispose](),
  };
}

/** Aborts the controller later, unless disposed before. */
function abortAfter(milliseconds: number, controller: AbortController, message: string): Disposable {
  const timer = setTimeout(() => {
    controller.abort(new SandboxError("unavailable", message));
  }, milliseconds);
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}
