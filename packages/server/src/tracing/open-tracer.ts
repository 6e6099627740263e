import { AsyncLocalStorage } from "node:async_hooks";
import { ROOT_CONTEXT, type SpanContext, SpanKind, SpanStatusCode, trace, TraceFlags } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, type SpanExporter, TracerProvider } from "@opentelemetry/sdk-trace";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { OpenSpan, Tracer } from "@opensandbox/wire/tracing.ts";
import { version } from "@opensandbox/wire/version.ts";
import { log } from "../log.ts";

/** How long ended spans wait for others to go with them. */
const exportDelayMs = 1000;
/** How long one export may take, the last one at the end of the process included. */
const exportTimeoutMs = 5000;

export interface TracerOptions {
  /** The base address of an OpenTelemetry collector, such as `http://10.0.0.9:4318`. */
  readonly endpoint: string;
  /** The name of this process among the services of a trace. */
  readonly service: string;
}

/** A tracer that sends its spans to a collector by OTLP over HTTP. Disposing it sends the spans that are left. */
export function openTracer({ endpoint, service }: TracerOptions): Tracer & AsyncDisposable {
  const exporter = reporting(
    new OTLPTraceExporter({ url: `${endpoint}/v1/traces`, timeoutMillis: exportTimeoutMs }),
    endpoint,
  );
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ "service.name": service, "service.version": version }),
    spanProcessors: [
      new BatchSpanProcessor({
        exporter,
        scheduledDelayMillis: exportDelayMs,
        exportTimeoutMillis: exportTimeoutMs,
      }),
    ],
  });
  const tracer = provider.getTracer("opensandbox", version);
  const current = new AsyncLocalStorage<SpanContext>();
  return {
    get isInSpan() {
      return current.getStore() !== undefined;
    },
    start({ name, kind, attributes, traceparent }): OpenSpan {
      const parent = contextOf(traceparent) ?? current.getStore();
      const context = parent === undefined ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, parent);
      const options = { kind: SpanKind[kind === "server" ? "SERVER" : "CLIENT"], attributes };
      const span = tracer.startSpan(name, options, context);
      const own = span.spanContext();
      return {
        traceparent: `00-${own.traceId}-${own.spanId}-${own.traceFlags.toString(16).padStart(2, "0")}`,
        run: (work) => current.run(own, work),
        end({ attributes: later = {}, error } = {}) {
          span.setAttributes(later);
          if (error !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: error });
          span.end();
        },
      };
    },
    async [Symbol.asyncDispose]() {
      try {
        await provider.shutdown();
      } catch (error) {
        log("warn", "the last traces are lost: the collector did not take them", describeError(error));
      }
    },
  };
}

/** https://www.w3.org/TR/trace-context/#traceparent-header: later versions may add fields. */
const traceparentForm = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?$/;

function contextOf(traceparent: string | undefined): SpanContext | undefined {
  const [, traceId, spanId, flags] = traceparentForm.exec(traceparent ?? "") ?? [];
  if (traceId === undefined || spanId === undefined || flags === undefined) return undefined;
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & TraceFlags.SAMPLED, isRemote: true };
}

/** Logs the first failure of an outage of the collector, and its end. Spans of the time between are lost. */
function reporting(exporter: OTLPTraceExporter, endpoint: string): SpanExporter {
  let isFailing = false;
  return {
    export(spans, done) {
      exporter.export(spans, (result) => {
        const hasFailed = result.error !== undefined;
        if (hasFailed && !isFailing) {
          log("warn", "the collector takes no traces", { endpoint, ...describeError(result.error) });
        } else if (!hasFailed && isFailing) {
          log("info", "the collector takes traces again", { endpoint });
        }
        isFailing = hasFailed;
        done(result);
      });
    },
    forceFlush: () => exporter.forceFlush(),
    shutdown: () => exporter.shutdown(),
  };
}
