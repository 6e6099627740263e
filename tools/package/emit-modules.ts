import { existsSync, readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { isBuiltin, stripTypeScriptTypes } from "node:module";
import { dirname, join, relative } from "node:path";
import { parseSync } from "oxc-parser";

/** A specifier of a module, with its place in the text, quotes included. */
interface Specifier {
  readonly value: string;
  readonly start: number;
  readonly end: number;
}

interface EmitOptions {
  readonly root: string;
  /** The first module, as a path from `root`. */
  readonly entry: string;
  /** Paths from `root` of modules that are not written. Only `import()` may name them. */
  readonly leftOut: RegExp;
  readonly target: string;
}

/**
 * Writes a module and every module that it reaches as JavaScript, at the same paths below `target`. Node does not strip
 * types below node_modules. Imports between packages of this repository become relative ones; those of other packages
 * stay.
 * @returns the names of the other packages
 */
export async function emitModules({ root, entry, leftOut, target }: EmitOptions): Promise<ReadonlySet<string>> {
  const further = new Set<string>();
  const seen = new Set([entry]);
  // A set's iterator reaches the elements that are added on the way.
  for (const file of seen) {
    const source = readFileSync(join(root, file), "utf8");
    let text = file.endsWith(".ts") ? stripTypeScriptTypes(source) : source;
    for (const { value, start, end } of specifiersIn(text, file).toReversed()) {
      const reached = moduleFile(root, file, value);
      if (reached === undefined) {
        if (!isBuiltin(value)) further.add(packageName(value));
        continue;
      }
      if (!leftOut.test(reached)) seen.add(reached);
      const path = relative(dirname(file), scriptOf(reached));
      const specifier = path.startsWith(".") ? path : `./${path}`;
      text = text.slice(0, start) + JSON.stringify(specifier) + text.slice(end);
    }
    const written = join(target, scriptOf(file));
    await mkdir(dirname(written), { recursive: true });
    // Stripped types leave blanks at the ends of lines.
    await writeFile(written, text.replaceAll(/[ \t]+$/gm, ""));
  }
  return further;
}

/** Specifiers of imports, of exports and of `import.meta.resolve`, in their order in the text. */
function specifiersIn(text: string, file: string): Specifier[] {
  const { program, module, errors } = parseSync(file, text, { lang: "js", sourceType: "module" });
  if (errors[0] !== undefined) throw new Error(`${file}: ${errors[0].message}`);
  const places = [
    ...program.body.flatMap((statement) => ("source" in statement && statement.source) || []),
    ...module.dynamicImports.map(({ moduleRequest }) => moduleRequest),
    ...[...text.matchAll(/(?<=\bimport\.meta\.resolve\()"[^"]+"/g)].map(({ 0: quoted, index }) => ({
      start: index,
      end: index + quoted.length,
    })),
  ];
  return places
    .toSorted((a, b) => a.start - b.start)
    .map(({ start, end }) => ({ value: stringAt(text, start, end, file), start, end }));
}

function stringAt(text: string, start: number, end: number, file: string): string {
  const quoted = text.slice(start, end);
  const value = /^"([^"\\]+)"$/.exec(quoted)?.[1];
  if (value === undefined) throw new Error(`${file}: cannot follow import(${quoted}); only a string can be packed`);
  return value;
}

/** The file of this repository that a specifier names, as a path from the root. Undefined: it names another package. */
function moduleFile(root: string, from: string, specifier: string): string | undefined {
  const file = pathOf(root, from, specifier);
  if (file !== undefined && !existsSync(join(root, file))) throw new Error(`${from}: ${specifier} does not exist`);
  return file;
}

function pathOf(root: string, from: string, specifier: string): string | undefined {
  if (specifier.startsWith(".")) return join(dirname(from), specifier);
  if (specifier.startsWith("#")) {
    const [, sources = ""] = /^(packages\/[^/]+\/src)\//.exec(from) ?? [];
    return join(sources, specifier.slice(1));
  }
  const [, name, path] = /^@opensandbox\/([^/]+)(\/.+)?$/.exec(specifier) ?? [];
  if (name === undefined) return undefined;
  const home = join("packages", name);
  const { exports } = JSON.parse(readFileSync(join(root, home, "package.json"), "utf8")) as {
    readonly exports: Readonly<Record<string, string>>;
  };
  const named = exports[`.${path ?? ""}`];
  const below = exports["./*"]?.replace("*", (path ?? "").slice(1));
  const found = named ?? below;
  if (found === undefined) throw new Error(`${from}: ${home} does not export ${specifier}`);
  return join(home, found);
}

function scriptOf(file: string): string {
  return file.replace(/\.ts$/, ".js");
}

function packageName(specifier: string): string {
  return specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
}
