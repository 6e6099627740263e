import { readFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import type { Evacuated } from "@opensandbox/control-plane/fleet.ts";
import { InstanceMetadata } from "@opensandbox/worker/instance-metadata.ts";
import { type OpenedWorker, openWorker, protectFromOutOfMemory } from "@opensandbox/worker";
import { Lease } from "@opensandbox/worker/lease.ts";
import { LeaseFile } from "@opensandbox/worker/lease-file.ts";
import { serveWorker } from "@opensandbox/worker/serve.ts";
import { version } from "@opensandbox/wire/version.ts";
import type { ServerConfig } from "../config.ts";
import { log } from "../log.ts";
import { writePrivateFile } from "../private-file.ts";
import { serveConfiguredMetrics } from "../metrics/serve-configured.ts";
import { workerMetrics } from "../metrics/worker-metrics.ts";
import { configuredTracer } from "../tracing/configured-tracer.ts";
import type { Server } from "../server.ts";
import { surviveRejections } from "../survive-rejections.ts";
import { workerOptions } from "../worker-options.ts";
import { callFleet } from "./fleet-client.ts";
import { readCredentials } from "./fleet-token.ts";
import { ScheduledEvents } from "./scheduled-events.ts";
import { storedServerUrl } from "./server-url.ts";

/** How often the worker sends its address to its server, so that a server with an older database finds it again. */
const joinMs = 30_000;
/** The pause after a failure to join. */
const retryMs = 2000;

/** A worker of a fleet. Disposing it leaves its machines running, for the next worker on the data directory. */
export async function startWorker(config: ServerConfig, signal: AbortSignal): Promise<Server> {
  const { dataDirectory, fleetToken, fleetHost, fleetPort } = config;
  const credentials = await readCredentials(dataDirectory, fleetToken);
  const serverUrl = config.fleetUrl ?? (await storedServerUrl(dataDirectory));
  if (serverUrl === undefined) {
    const message = "this worker belongs to no server: run 'osb worker join' first, or set OPENSANDBOX_FLEET_URL";
    throw new SandboxError("invalid_argument", message);
  }
  await using undo = new AsyncDisposableStack();
  undo.use(surviveRejections());
  protectFromOutOfMemory();
  const { fleetLeaseSeconds: seconds } = config;
  const renewals = new LeaseFile(dataDirectory);
  // The lease may have expired, before the last process ended or since. A server may have started sandboxes elsewhere.
  const startsFenced = seconds > 0 && renewals.leftOf(seconds * 1000) <= 0;
  const adopting = startsFenced ? "paused" : "running";
  const opened = undo.use(await openWorker({ ...workerOptions(config), ephemeral: false, adopting }));
  undo.defer(() => opened.release());
  const id = await workerName(dataDirectory);
  const { secret, ...tls } = credentials;
  const tracer = undo.use(await configuredTracer(config));
  const lease = seconds === 0 ? undefined : undo.use(leaseOf(seconds, opened, renewals));
  const endpoint = undo.use(
    await serveWorker({
      ...{ worker: opened.worker, id, instance: randomHex(8), version, tls, token: secret, log, tracer },
      status: () => opened.status(),
      lease: lease && { seconds, asked: () => lease.asked(), greeted: () => lease.greeted() },
      listen: { host: fleetHost, port: fleetPort },
    }),
  );
  const isEveryAddress = fleetHost === "0.0.0.0" || fleetHost === "::";
  const own = isEveryAddress ? `https://${hostname()}:${new URL(endpoint.url).port}` : endpoint.url;
  const address = config.fleetAddress ?? own;
  signal.throwIfAborted();
  const ending = new AbortController();
  const joinCall = { url: serverUrl, credentials, method: "POST", path: "/join", body: { url: address } } as const;
  const joining = keepJoined(() => callFleet(joinCall, ending.signal), ending.signal);
  undo.defer(async () => {
    ending.abort();
    await joining;
  });
  const { scheduledEvents } = config;
  if (scheduledEvents !== undefined) {
    const ask = async (verb: string, body: object, signal: AbortSignal): Promise<unknown> =>
      await callFleet({ url: serverUrl, credentials, method: "POST", path: `/workers/${id}/${verb}`, body }, signal);
    undo.use(
      new ScheduledEvents({
        metadata: new InstanceMetadata(scheduledEvents),
        evacuate: async (signal) => (await ask("evacuate", {}, signal)) as Evacuated,
        admit: async (signal) => void (await ask("cordon", { cordoned: false }, signal)),
        markFile: join(dataDirectory, "scheduled-event"),
        log,
      }),
    );
  }
  log("info", "this worker serves its fleet", { worker: id, address, server: serverUrl });
  undo.use(
    await serveConfiguredMetrics(config, async () =>
      workerMetrics(await opened.status(), await opened.worker.listSandboxes()),
    ),
  );
  const owned = undo.move();
  return {
    url: address,
    description: opened.worker.description,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function leaseOf(seconds: number, opened: OpenedWorker, renewals: LeaseFile): Lease {
  const [fence, release] = [() => opened.pauseAll(), () => opened.resumeAll()];
  const leaseMs = seconds * 1000;
  const leftMs = renewals.leftOf(leaseMs);
  return new Lease({ leaseMs, leftMs, onRenewed: () => renewals.renew(), fence, release, log });
}

/** Joins again and again until the signal aborts. Never rejects. */
async function keepJoined(join: () => Promise<unknown>, signal: AbortSignal): Promise<void> {
  let wasJoined: boolean | undefined;
  while (!signal.aborted) {
    try {
      await join();
      if (wasJoined !== true) log("info", "the server of the fleet reaches this worker");
      wasJoined = true;
    } catch (error) {
      if (signal.aborted) return;
      if (wasJoined !== false)
        log("warn", "this worker cannot join its fleet yet: it tries again", describeError(error));
      wasJoined = false;
    }
    await sleep(wasJoined ? joinMs : retryMs, undefined, { signal }).catch(() => undefined);
  }
}

/** The name of the worker in the fleet, which stays with the data directory. */
async function workerName(dataDirectory: string): Promise<string> {
  const file = join(dataDirectory, "fleet-worker");
  try {
    return (await readFile(file, "utf8")).trim();
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause;
  }
  const name = `wk-${randomHex(6)}`;
  await writePrivateFile(file, `${name}\n`);
  return name;
}
