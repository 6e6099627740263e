import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ImageSource } from "#images/image-source.ts";

/** An image as data: `images/<name>.json`. */
export interface Recipe {
  readonly name: string;
  readonly description: string;
  /** Debian's release. */
  readonly suite: string;
  /** Installed in addition to Debian's required packages, without the packages that they recommend. */
  readonly packages: readonly string[];
  /** Services that every machine of the image starts at its boot, with their commands. */
  readonly services: Readonly<Record<string, string>>;
  /** Groups of its packages that the user `sandbox` belongs to. */
  readonly groups: readonly string[];
  /** Size of the root file system in the guest. */
  readonly rootfsMib: number;
  /** Free disk space that a build needs, measured and rounded up. */
  readonly buildMib: number;
}

const suffix = ".json";

/** Names of all recipes, sorted. */
export async function recipeNames(source: ImageSource): Promise<readonly string[]> {
  const files = await readdir(source.recipesDirectory);
  return files
    .filter((file) => file.endsWith(suffix))
    .map((file) => file.slice(0, -suffix.length))
    .toSorted();
}

/** @throws `not_found` with the names of all recipes; `invalid_argument` for an unusable recipe */
export async function readRecipe(source: ImageSource, name: string): Promise<Recipe> {
  const names = await recipeNames(source);
  if (!names.includes(name)) {
    throw new SandboxError("not_found", `there is no image ${name}; there are: ${names.join(", ")}`, {
      resource: "image",
      id: name,
    });
  }
  const file = join(source.recipesDirectory, `${name}${suffix}`);
  return parseRecipe(name, file, await readFile(file, "utf8"));
}

function parseRecipe(name: string, file: string, text: string): Recipe {
  const wrong = (what: string, cause?: unknown) =>
    new SandboxError("invalid_argument", `${file}: ${what}`, cause === undefined ? {} : { cause });
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(text) as Record<string, unknown>;
  } catch (cause) {
    throw wrong(`not valid JSON: ${(cause as Error).message}`, cause);
  }
  const { description, suite, packages, services = {}, groups = [], rootfsMib, buildMib } = value;
  if (typeof description !== "string") throw wrong("description must be a string");
  if (typeof suite !== "string" || !/^[a-z]+$/.test(suite)) throw wrong("suite must be the name of a Debian release");
  if (!areWords(packages)) throw wrong("packages must be a list of Debian package names");
  if (!areServices(services)) throw wrong("services must be an object of names and commands of one line");
  if (!areWords(groups)) throw wrong("groups must be a list of names of groups");
  if (!isSize(rootfsMib) || rootfsMib < 1024) throw wrong("rootfsMib must be a whole number from 1024");
  if (!isSize(buildMib)) throw wrong("buildMib must be a whole number");
  return { name, description, suite, packages, services, groups, rootfsMib, buildMib };
}

function areServices(value: unknown): value is Readonly<Record<string, string>> {
  if (typeof value !== "object" || value === null || !areWords(Object.keys(value))) return false;
  return Object.values(value).every((command) => typeof command === "string" && /^[\w/][\w/:=., -]*$/.test(command));
}

function areWords(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((entry) => /^[a-z0-9][a-z0-9.+-]*$/.test(String(entry)));
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}
