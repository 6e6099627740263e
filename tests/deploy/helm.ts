import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { chartDirectory, renderedDirectory } from "./chart-files.ts";

/** The oldest version of Kubernetes that the chart supports is rendered for. */
const kubernetesVersion = "1.27.0";

/** The command line of Helm that renders an example. */
export function helmArguments(example: string): readonly string[] {
  const values = join(renderedDirectory, `${example}.values.yaml`);
  return ["template", "osb", chartDirectory, "--kube-version", kubernetesVersion, "--values", values];
}

/** Why Helm cannot be run here. Undefined: it can. */
export function helmIsMissing(): string | undefined {
  try {
    execFileSync("helm", ["version"], { stdio: "ignore" });
    return undefined;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return "helm is not in the PATH";
    throw cause;
  }
}
