import type { Tracer } from "@opensandbox/wire/tracing.ts";
import type { ServerConfig } from "../config.ts";

/** The tracer of this process where the configuration names a collector. Only then the code is loaded. */
export async function configuredTracer({
  mode,
  tracesEndpoint: endpoint,
}: ServerConfig): Promise<(Tracer & AsyncDisposable) | undefined> {
  if (endpoint === undefined) return undefined;
  const { openTracer } = await import("./open-tracer.ts");
  return openTracer({ endpoint, service: mode === "combined" ? "opensandbox" : `opensandbox-${mode}` });
}
