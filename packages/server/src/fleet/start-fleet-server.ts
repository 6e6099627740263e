import { startControlPlane } from "@opensandbox/control-plane";
import { openFleet } from "@opensandbox/control-plane/fleet.ts";
import { version } from "@opensandbox/wire/version.ts";
import type { ServerConfig } from "../config.ts";
import { controlPlaneOptions } from "../control-plane-options.ts";
import { storedApiKey, storeFirstApiKey } from "../keys/first-api-key.ts";
import { shareDatabase } from "../hold-database.ts";
import { log } from "../log.ts";
import { serveConfiguredMetrics } from "../metrics/serve-configured.ts";
import { configuredTracer } from "../tracing/configured-tracer.ts";
import type { Server } from "../server.ts";
import { publishServer } from "../server-file.ts";
import { surviveRejections } from "../survive-rejections.ts";
import { readCredentials } from "./fleet-token.ts";

/** A control plane for the workers of a fleet. Disposing it leaves their sandboxes running. */
export async function startFleetServer(config: ServerConfig, signal: AbortSignal): Promise<Server> {
  const { dataDirectory, fleetToken, fleetHost, fleetPort, fleetLostSeconds } = config;
  const { secret, ...tls } = await readCredentials(dataDirectory, fleetToken);
  await using undo = new AsyncDisposableStack();
  undo.use(surviveRejections());
  const database = undo.use(await shareDatabase(config, () => process.kill(process.pid, "SIGTERM"), signal));
  const listen = { host: fleetHost, port: fleetPort };
  const tracer = undo.use(await configuredTracer(config));
  const controlPlane = undo.use(
    await startControlPlane(
      {
        ...(await controlPlaneOptions(config)),
        database: database.location,
        membership: database.membership,
        worker: openFleet({ listen, tls, token: secret, version, tracer, lostAfterMs: fleetLostSeconds * 1000 }),
        // Every worker counts as alive: no other server may change the rows of a worker that has left the fleet.
        isWorkerAlive: () => true,
        atEnd: () => "leave",
        log,
        tracer,
      },
      signal,
    ),
  );
  const { url, firstApiKey } = controlPlane;
  if (firstApiKey !== undefined) await storeFirstApiKey(dataDirectory, firstApiKey);
  const known = config.apiKey ?? firstApiKey ?? (await storedApiKey(dataDirectory));
  const key = known === undefined ? {} : { apiKey: known };
  undo.use(await publishServer(dataDirectory, { url, pid: process.pid, ...key }));
  undo.use(await serveConfiguredMetrics(config, () => controlPlane.metrics()));
  const owned = undo.move();
  return {
    url,
    ...key,
    ...(firstApiKey === undefined ? {} : { firstApiKey }),
    get description() {
      return controlPlane.description;
    },
    createSignInLink: () => controlPlane.createSignInLink(),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
