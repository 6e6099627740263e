import assert from "node:assert/strict";
import { test } from "node:test";
import type { SpanStart } from "@opensandbox/wire/tracing.ts";
import { openTracer } from "../../packages/server/src/tracing/open-tracer.ts";
import { startCollector } from "./collector.ts";

const start = (name: string, traceparent?: string): SpanStart => ({
  ...{ name, kind: "server", attributes: {}, traceparent },
});

test("a span is below the one that traceparent names, or else below the current one; an invalid header begins a trace", async () => {
  await using collector = await startCollector();
  const traceId = "0af7651916cd43dd8448eb211c80319c";
  {
    await using tracer = openTracer({ endpoint: collector.endpoint, service: "test" });
    const first = tracer.start(start("first", `00-${traceId}-b7ad6b7169203331-01`));
    assert.equal(tracer.isInSpan, false);
    await first.run(async () => {
      await Promise.resolve();
      assert.equal(tracer.isInSpan, true);
      tracer.start(start("second")).end({ error: "it failed", attributes: { answer: 42 } });
    });
    first.end();
    for (const invalid of [
      "",
      "hello",
      `00-${"0".repeat(32)}-b7ad6b7169203331-01`,
      `00-${traceId}-${"0".repeat(16)}-01`,
      `ff-${traceId}-b7ad6b7169203331-01`,
    ]) {
      tracer.start(start("invalid", invalid)).end();
    }
    tracer.start(start("not sampled", `00-${traceId}-b7ad6b7169203331-00`)).end();
  }
  const [second, first, ...invalid] = collector.spans;
  assert.deepEqual([first!.name, first!.traceId, first!.parentSpanId], ["first", traceId, "b7ad6b7169203331"]);
  assert.deepEqual([second!.name, second!.traceId, second!.parentSpanId], ["second", traceId, first!.spanId]);
  assert.deepEqual(second!.attributes, { answer: 42 });
  assert.deepEqual(
    invalid.map(({ name }) => name),
    Array.from({ length: 5 }, () => "invalid"),
  );
  for (const span of invalid) {
    assert.notEqual(span.traceId, traceId);
    assert.ok(!span.parentSpanId);
  }
});

test("a collector that refuses spans does not keep a process from ending in order", async () => {
  await using collector = await startCollector({ status: 400 });
  {
    await using tracer = openTracer({ endpoint: collector.endpoint, service: "test" });
    tracer.start(start("lost")).end();
  }
  assert.equal(collector.spans.length, 1);
});
