// Renders the Helm chart for each example of values, beside the example, and records which files it was rendered from.
// Needs Helm 3: `go install helm.sh/helm/v3/cmd/helm@v3.22.0`, with a Go that is installed.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { chartExamples, hashOfChart, renderedDirectory } from "../tests/deploy/chart-files.ts";
import { helmArguments } from "../tests/deploy/helm.ts";

for (const example of chartExamples()) {
  const rendered = execFileSync("helm", helmArguments(example), { encoding: "utf8" });
  writeFileSync(join(renderedDirectory, `${example}.rendered.yaml`), rendered);
}
writeFileSync(join(renderedDirectory, "sources.sha256"), `${hashOfChart()}\n`);
