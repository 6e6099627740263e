import assert from "node:assert/strict";
import { test } from "node:test";
import { unknownCommands } from "./commands.ts";
import { metricsIn, readAlerts, readPanels, readRunbook } from "./monitoring.ts";

test("each alert has its section in the runbook, and each section its alert", () => {
  const [, part = ""] = /^## Alerts$(.*?)^## /ms.exec(readRunbook()) ?? [];
  const sections = [...part.matchAll(/^### (\w+)\n\n[^#]+?^1\. /gms)].map(([, name]) => name);
  const alerts = readAlerts();
  assert.deepEqual(
    alerts.map(({ alert }) => alert),
    sections,
  );
  for (const { alert, annotations, labels } of alerts) {
    assert.equal(annotations["runbook"], `docs/operations.md#${alert.toLowerCase()}`);
    assert.ok(annotations["summary"], alert);
    assert.match(labels["severity"] ?? "", /^(critical|warning)$/, alert);
  }
});

test("the commands of the runbook are commands of the command line", () => {
  assert.ok(readRunbook().includes("osb admin drain "));
  assert.deepEqual(unknownCommands(readRunbook()), []);
  assert.deepEqual(unknownCommands("`osb sandbox get`, `osb get ID`, `osb admin fill`"), [
    "osb sandbox get",
    "osb admin fill",
  ]);
});

test("the panels of the dashboard have ids of their own, and none covers another", () => {
  const panels = readPanels();
  assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
  const squares = panels.flatMap(({ title, gridPos: { x, y, w, h } }) => {
    assert.ok(x + w <= 24, title);
    return Array.from({ length: w * h }, (_, at) => `${x + (at % w)} ${y + Math.floor(at / w)}`);
  });
  assert.equal(new Set(squares).size, squares.length);
  for (const { type, title, targets = [] } of panels) assert.equal(targets.length > 0, type !== "row", title);
});

test("metrics are told from functions, labels and operators", () => {
  const text = `histogram_quantile(0.9, sum by (le) (rate(a_bucket{route="/b"}[5m]))) > 1e3 and on (job) (c or d offset 10m)`;
  assert.deepEqual(metricsIn(text), [
    { name: "a_bucket", selector: 'route="/b"' },
    { name: "c", selector: "" },
    { name: "d", selector: "" },
  ]);
});
