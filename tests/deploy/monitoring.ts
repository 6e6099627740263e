import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";

const root = join(import.meta.dirname, "../..");

/** An expression that Prometheus evaluates, and its place in the repository. */
export interface Expression {
  readonly place: string;
  readonly text: string;
}

export interface Alert {
  readonly alert: string;
  readonly expr: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

export interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets?: readonly { readonly refId: string; readonly expr: string }[];
}

/** One use of a metric in an expression. */
export interface UsedMetric {
  readonly name: string;
  /** The text between the braces that follow it. */
  readonly selector: string;
}

export function readAlerts(): readonly Alert[] {
  const text = read("deploy/prometheus/opensandbox.rules.yaml");
  const { groups } = parse(text) as { readonly groups: readonly { readonly rules: readonly Alert[] }[] };
  return groups.flatMap(({ rules }) => rules);
}

export function readPanels(): readonly Panel[] {
  return (JSON.parse(read("deploy/grafana/opensandbox.json")) as { readonly panels: readonly Panel[] }).panels;
}

export function readRunbook(): string {
  return read("docs/operations.md");
}

/** Every expression of the alerts and of the dashboard. */
export function expressions(): readonly Expression[] {
  return [
    ...readAlerts().map(({ alert, expr }) => ({ place: `alert ${alert}`, text: expr })),
    ...readPanels().flatMap(({ title, targets = [] }) =>
      targets.map(({ expr }) => ({ place: `panel ${title}`, text: expr })),
    ),
  ];
}

/** The words of PromQL that are neither functions nor names of metrics. */
const operators = new Set(["and", "or", "unless", "offset", "bool"]);

/** The metrics of an expression: its names that are neither operators, functions nor labels. */
export function metricsIn(expression: string): readonly UsedMetric[] {
  const withoutLabels = expression
    .replaceAll(/\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)/g, " ")
    .replaceAll(/\[[^\]]*\]/g, " ");
  return [...withoutLabels.matchAll(/([a-zA-Z_:][\w:]*)\s*(\()?(?:\{([^}]*)\})?|"[^"]*"|[\d.]+\w*/g)].flatMap(
    ([, name, call, selector = ""]) =>
      name === undefined || call !== undefined || operators.has(name) ? [] : [{ name, selector }],
  );
}

function read(file: string): string {
  return readFileSync(join(root, file), "utf8");
}
