import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { expressions, metricsIn, readRunbook } from "../deploy/monitoring.ts";
import { type Collector, type ReceivedSpan, startCollector } from "./collector.ts";
import { type FleetWorld, startFleetWorld } from "./fleet-world.ts";

suite("a fleet that is watched", () => {
  const log: string[] = [];
  const undo = new AsyncDisposableStack();
  let collector: Collector;
  let world: FleetWorld;

  before(async () => {
    collector = undo.use(await startCollector());
    world = undo.use(
      await startFleetWorld({
        workers: 1,
        env: { OPENSANDBOX_METRICS_PORT: "0", OPENSANDBOX_TRACES_ENDPOINT: collector.endpoint },
        onLog: (line) => log.push(line),
      }),
    );
  });
  after(() => undo.disposeAsync());

  test("a server and a worker serve their metrics in Prometheus's format, and alerts and dashboard use no others", async () => {
    const created = await world.call("POST", "/sandboxes", { templateID: "minimal", timeout: 0 });
    assert.equal(created.status, 201, JSON.stringify(created.reply));
    const [member] = await world.report();
    const scrape = async (node: string): Promise<string> => {
      const line = log.find((each) => each.startsWith(`${node} `) && each.includes("metrics are served"));
      const [url] = /http:\/\/[^"]+\/metrics/.exec(line ?? "") ?? assert.fail(log.join("\n"));
      const response = await fetch(url);
      assert.equal(response.status, 200);
      assert.match(response.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
      const text = await response.text();
      for (const each of text.trimEnd().split("\n")) {
        assert.match(each, /^(# (HELP|TYPE) [a-z0-9_]+ .+|[a-z0-9_]+(\{([a-z]+="[^"]*",?)*\})? [-+0-9.e]+)$/);
      }
      return text;
    };
    const server = await scrape("server");
    assert.match(server, /^opensandbox_sandboxes\{state="running"\} 1$/m);
    assert.match(server, new RegExp(`^opensandbox_worker_up\\{worker="${member!.id}"\\} 1$`, "m"));
    assert.match(
      server,
      /^opensandbox_http_request_duration_seconds_count\{method="POST",route="\/api\/sandboxes",status="201"\} 1$/m,
    );
    assert.match(server, /^process_resident_memory_bytes \d+$/m);
    const worker = await scrape("worker-0");
    assert.match(worker, /^opensandbox_machines 1$/m);
    assert.match(worker, /^opensandbox_host_disk_free_ratio 0\.\d+$/m);

    assertDocumented({ server, worker });
    for (const { place, text } of expressions()) {
      const used = metricsIn(text);
      assert.ok(used.length > 0, place);
      for (const { name, selector } of used) assertExported(place, { name, selector }, `${server}${worker}`);
    }
  });

  test("the spans of a request, its calls and their answers on the worker are one trace, which a client may begin", async () => {
    const [traceId, parentSpanId] = ["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"];
    const response = await fetch(`${world.url}/api/sandboxes`, {
      method: "POST",
      headers: { "x-api-key": world.apiKey, traceparent: `00-${traceId}-${parentSpanId}-01` },
      body: JSON.stringify({ templateID: "minimal", timeout: 0 }),
    });
    assert.equal(response.status, 201);
    const { sandboxID } = (await response.json()) as { readonly sandboxID: string };
    const spanOf = (service: string, name: string): ReceivedSpan | undefined =>
      collector.spans.find((span) => span.service === service && span.name === name && span.traceId === traceId);
    const { request, call, answer } = await eventually(
      "the collector has the three spans",
      () => {
        const request = spanOf("opensandbox-server", "POST /api/sandboxes");
        const call = spanOf("opensandbox-server", "call StartSandbox");
        const answer = spanOf("opensandbox-worker", "answer StartSandbox");
        return request !== undefined && call !== undefined && answer !== undefined && { request, call, answer };
      },
      { withinMs: 60_000, everyMs: 100 },
    );
    assert.equal(request.parentSpanId, parentSpanId);
    assert.equal(call.parentSpanId, request.spanId);
    assert.equal(answer.parentSpanId, call.spanId);
    assert.equal(request.attributes["http.response.status_code"], 201);
    assert.equal(request.attributes["opensandbox.request"], response.headers.get("x-request-id"));
    const [member] = await world.report();
    assert.equal(call.attributes["opensandbox.worker"], `worker ${member!.id}`);

    const stopped = await world.call("DELETE", `/sandboxes/${sandboxID}`);
    assert.equal(stopped.status, 204, JSON.stringify(stopped.reply));
    const named = (name: string): ReceivedSpan | undefined =>
      collector.spans.find(
        (span) =>
          span.name === name && span.attributes["opensandbox.sandbox"] === sandboxID && span.traceId !== traceId,
      );
    await eventually(
      "another request has a trace of its own",
      () => {
        const [deleted, stop] = [named("DELETE /api/sandboxes/:id"), named("answer StopSandbox")];
        return deleted !== undefined && stop?.traceId === deleted.traceId;
      },
      { withinMs: 60_000, everyMs: 100 },
    );
  });
});

/** Fails unless a role exports the metric, with the labels that are selected. */
function assertExported(place: string, used: { readonly name: string; readonly selector: string }, text: string): void {
  // Prometheus makes this metric of each scrape.
  if (used.name === "up") return;
  const types = typesOf(text);
  const histogram = used.name.replace(/_(?:bucket|sum|count)$/, "");
  const isExported = types.get(histogram) === "histogram" ? histogram !== used.name : types.has(used.name);
  assert.ok(isExported, `${place}: no role exports ${used.name}`);
  const [sample] = new RegExp(`^${used.name}[{ ].*$`, "m").exec(text) ?? [];
  for (const [, label = "", operator, value = ""] of used.selector.matchAll(/(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"/g)) {
    // Prometheus adds the labels of the target.
    if (label === "job" || label === "instance" || sample === undefined) continue;
    assert.ok(sample.includes(`${label}="`), `${place}: ${used.name} has no label ${label}`);
    if (operator === "=" && (label === "method" || label === "route")) {
      assert.match(text, new RegExp(`^${used.name}\\{.*\\b${label}="${value}"`, "m"), `${place}: ${label}="${value}"`);
    }
  }
}

/** Fails unless the table of metrics in the runbook is that of what the roles export. */
function assertDocumented(exported: { readonly server: string; readonly worker: string }): void {
  const [, table = ""] = /^## Metrics$(.*?)^## /ms.exec(readRunbook()) ?? [];
  const rows = [...table.matchAll(/^\| (`.*?) \| (server|worker|both)\b/gm)].flatMap(([, names = "", role = ""]) =>
    [...names.matchAll(/`(\w+)`/g)].map(([, name = ""]) => ({ name, role })),
  );
  for (const role of ["server", "worker"] as const) {
    const documented = rows.filter((row) => row.role === role || row.role === "both").map(({ name }) => name);
    assert.deepEqual([...typesOf(exported[role]).keys()].toSorted(), documented.toSorted(), role);
  }
}

function typesOf(text: string): ReadonlyMap<string, string> {
  return new Map([...text.matchAll(/^# TYPE (\w+) (\w+)$/gm)].map(([, name = "", type = ""]) => [name, type]));
}
