import { readFileSync } from "node:fs";
import { join } from "node:path";

interface LockedPackage {
  readonly version: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>;
}

/**
 * Follows the dependencies of some packages through package-lock.json.
 * @returns versions by path, such as node_modules/ajv/node_modules/fast-uri
 */
export function lockedPackages(root: string, names: Iterable<string>): ReadonlyMap<string, string> {
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as {
    readonly packages: Readonly<Record<string, LockedPackage>>;
  };
  const found = new Map<string, string>();
  const wanted = [...names].map((name) => ({ name, from: "" }));
  for (const { name, from } of wanted) {
    const path = installedPath(lock.packages, name, from);
    const entry = lock.packages[path];
    if (entry === undefined || found.has(path)) continue;
    found.set(path, entry.version);
    const peers = Object.keys(entry.peerDependencies ?? {}).filter(
      (peer) => entry.peerDependenciesMeta?.[peer]?.optional !== true,
    );
    wanted.push(...[...Object.keys(entry.dependencies ?? {}), ...peers].map((name) => ({ name, from: path })));
  }
  return found;
}

/** The nearest installed package of that name, as Node looks for it from the package at `from`. */
function installedPath(packages: Readonly<Record<string, LockedPackage>>, name: string, from: string): string {
  const path = join(from, "node_modules", name);
  if (packages[path] !== undefined) return path;
  if (from === "") throw new Error(`package-lock.json has no package ${name}`);
  return installedPath(packages, name, from.slice(0, Math.max(0, from.lastIndexOf("/node_modules/"))));
}
