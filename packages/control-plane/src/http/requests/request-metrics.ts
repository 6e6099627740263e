import type { FastifyInstance } from "fastify";
import type { Metric, Sample } from "#metrics/metric.ts";

/** Upper bounds in seconds: of an exec in a warm guest, a restore, a boot, an upload. */
const bounds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] as const;

interface Series {
  readonly labels: Readonly<Record<string, string>>;
  /** Requests at or below each bound, which the next one counts too. */
  readonly buckets: number[];
  count: number;
  seconds: number;
}

/** Counts the answered requests of the API, and how long they took, by route and status. */
export class RequestMetrics {
  readonly #series = new Map<string, Series>();

  /** Call it before the routes are added. */
  watch(app: FastifyInstance): void {
    app.addHook("onResponse", (request, reply, done) => {
      // Routes are a closed list, while paths contain ids.
      const route = request.routeOptions.url ?? "none";
      this.#observe({ method: request.method, route, status: String(reply.statusCode) }, reply.elapsedTime / 1000);
      done();
    });
  }

  get metrics(): readonly Metric[] {
    const samples = [...this.#series.values()].flatMap(({ labels, buckets, count, seconds }): Sample[] => [
      ...bounds.map((le, at) => ({ suffix: "_bucket", labels: { ...labels, le: `${le}` }, value: buckets[at] ?? 0 })),
      { suffix: "_bucket", labels: { ...labels, le: "+Inf" }, value: count },
      { suffix: "_sum", labels, value: seconds },
      { suffix: "_count", labels, value: count },
    ]);
    const help = "Answered requests of the API and how long they took, in seconds.";
    return [{ name: "opensandbox_http_request_duration_seconds", help, type: "histogram", samples }];
  }

  #observe(labels: Readonly<Record<string, string>>, seconds: number): void {
    const key = Object.values(labels).join(" ");
    const series = this.#series.get(key) ?? { labels, buckets: bounds.map(() => 0), count: 0, seconds: 0 };
    this.#series.set(key, series);
    for (const [at, bound] of bounds.entries()) if (seconds <= bound) series.buckets[at]! += 1;
    series.count += 1;
    series.seconds += seconds;
  }
}
