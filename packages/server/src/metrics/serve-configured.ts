import type { Metric } from "@opensandbox/control-plane";
import type { ServerConfig } from "../config.ts";

/** Serves metrics where the configuration says so. Only then the code is loaded. */
export async function serveConfiguredMetrics(
  { metricsHost: host, metricsPort: port }: ServerConfig,
  metrics: () => Promise<readonly Metric[]>,
): Promise<AsyncDisposable | undefined> {
  if (port === undefined) return undefined;
  const { serveMetrics } = await import("./serve-metrics.ts");
  return await serveMetrics({ host, port }, metrics);
}
