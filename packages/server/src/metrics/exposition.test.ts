import assert from "node:assert/strict";
import { test } from "node:test";
import { expositionOf } from "./exposition.ts";

test("metrics are written in Prometheus's text format, with their labels escaped", () => {
  const text = expositionOf([
    { name: "a_total", help: "What it counts.", type: "counter", samples: [{ value: 1 }] },
    {
      ...{ name: "b_seconds", help: "How long.", type: "histogram" },
      samples: [
        { suffix: "_bucket", labels: { route: 'a"b\\c\nd', le: "+Inf" }, value: 2 },
        { suffix: "_sum", value: 0.5 },
      ],
    },
  ]);
  assert.equal(
    text,
    [
      "# HELP a_total What it counts.",
      "# TYPE a_total counter",
      "a_total 1",
      "# HELP b_seconds How long.",
      "# TYPE b_seconds histogram",
      'b_seconds_bucket{route="a\\"b\\\\c\\nd",le="+Inf"} 2',
      "b_seconds_sum 0.5",
      "",
    ].join("\n"),
  );
});
