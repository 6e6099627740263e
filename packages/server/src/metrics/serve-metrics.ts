import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Metric } from "@opensandbox/control-plane";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { log } from "../log.ts";
import { expositionOf } from "./exposition.ts";

/** The resolution of the delay of the event loop, in milliseconds. */
const loopResolutionMs = 20;

/**
 * Serves `GET /metrics` by plain HTTP, without a key: the address decides who reads it.
 * @throws `unavailable` when it cannot listen
 */
export async function serveMetrics(
  listen: { readonly host: string; readonly port: number },
  metrics: () => Promise<readonly Metric[]>,
): Promise<AsyncDisposable> {
  const loop = monitorEventLoopDelay({ resolution: loopResolutionMs });
  loop.enable();
  const text = async (): Promise<string> => {
    const delay = (loop.percentile(99) - loopResolutionMs * 1e6) / 1e9;
    loop.reset();
    return expositionOf([...(await metrics()), ...processMetrics(Math.max(0, delay))]);
  };
  const server = createServer((request, response) => {
    if (request.method !== "GET" || request.url !== "/metrics") {
      response.writeHead(404).end();
      return;
    }
    text().then(
      (body) => response.writeHead(200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" }).end(body),
      (error: unknown) => {
        log("error", "cannot collect metrics", describeError(error));
        response.writeHead(503).end();
      },
    );
  });
  try {
    server.listen(listen);
    await once(server, "listening");
  } catch (cause) {
    loop.disable();
    const message = `cannot serve metrics on ${listen.host} port ${listen.port}: ${(cause as Error).message}: set OPENSANDBOX_METRICS_HOST and OPENSANDBOX_METRICS_PORT`;
    throw new SandboxError("unavailable", message, { cause });
  }
  const { address, port } = server.address() as AddressInfo;
  log("info", "metrics are served", {
    url: `http://${address.includes(":") ? `[${address}]` : address}:${port}/metrics`,
  });
  return {
    async [Symbol.asyncDispose]() {
      loop.disable();
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

function processMetrics(loopDelaySeconds: number): readonly Metric[] {
  const { rss, heapUsed } = process.memoryUsage();
  const { user, system } = process.cpuUsage();
  const metric = (name: string, type: Metric["type"], help: string, value: number): Metric => ({
    ...{ name, type, help, samples: [{ value }] },
  });
  return [
    metric("process_cpu_seconds_total", "counter", "Processor time of the process.", (user + system) / 1e6),
    metric("process_resident_memory_bytes", "gauge", "Memory of the process.", rss),
    metric("process_start_time_seconds", "gauge", "When the process started.", Date.now() / 1000 - process.uptime()),
    metric("nodejs_heap_used_bytes", "gauge", "Used part of the heap.", heapUsed),
    metric(
      ...(["nodejs_eventloop_lag_p99_seconds", "gauge"] as const),
      "Delay of the event loop since the last question, 99th percentile.",
      loopDelaySeconds,
    ),
  ];
}
