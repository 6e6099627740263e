import { createHash } from "node:crypto";
import { globSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { parseAllDocuments } from "yaml";

export const chartDirectory = join(import.meta.dirname, "../../deploy/helm/opensandbox");
/** Examples of values, and what Helm makes of the chart with each. */
export const renderedDirectory = join(import.meta.dirname, "../../deploy/helm/rendered");

// oxlint-disable-next-line typescript/no-explicit-any -- a test checks the fields that it reads
export type Manifest = any;

export interface Variable {
  readonly name: string;
  readonly value?: string;
  readonly valueFrom?: { readonly secretKeyRef?: { readonly name: string; readonly key: string } };
}

/** The names of the examples. */
export function chartExamples(): readonly string[] {
  return globSync("*.values.yaml", { cwd: renderedDirectory })
    .map((file) => basename(file, ".values.yaml"))
    .toSorted();
}

/** A hash of everything that the renderings depend on. */
export function hashOfChart(): string {
  const hash = createHash("sha256");
  for (const [directory, pattern] of [
    [chartDirectory, "**/*.*"],
    [renderedDirectory, "*.values.yaml"],
  ] as const) {
    for (const file of globSync(pattern, { cwd: directory }).toSorted()) {
      hash
        .update(`${file}\0`)
        .update(readFileSync(join(directory, file)))
        .update("\0");
    }
  }
  return hash.digest("hex");
}

export function readRendered(example: string): string {
  return readFileSync(join(renderedDirectory, `${example}.rendered.yaml`), "utf8");
}

/** The objects of a rendering. @throws an error for text that is not YAML */
export function manifestsOf(example: string): readonly Manifest[] {
  return parseAllDocuments(readRendered(example)).map((document) => {
    const [error] = document.errors;
    if (error !== undefined) throw error;
    return document.toJS();
  });
}

/** The pods that a rendering describes, with the labels that choose them. */
export function podsOf(example: string): readonly { kind: string; spec: Manifest; pod: Manifest }[] {
  return manifestsOf(example).flatMap(({ kind, spec }) =>
    kind === "Deployment" || kind === "DaemonSet" ? [{ kind, spec, pod: spec.template }] : [],
  );
}
