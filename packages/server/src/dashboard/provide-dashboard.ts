import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { SandboxError } from "@opensandbox/wire/errors.ts";

const repository = join(import.meta.dirname, "../../../..");

/** The page of an installed package, which has no sources. A checkout lacks this directory. */
const builtDirectory = join(repository, "dashboard");

/** Everything that goes into the page. */
const sources = ["packages/dashboard", "packages/sdk/src", "packages/wire/src", "package-lock.json"];

/** A build takes seconds, and longer on a crowded host. */
const buildMs = 300_000;

/**
 * The directory of the built dashboard. An installed package contains it. A checkout builds it below the data directory
 * when its sources have changed, and removes earlier ones. @throws `unavailable` when the build fails
 */
export async function provideDashboard(dataDirectory: string): Promise<string> {
  if (existsSync(builtDirectory)) return builtDirectory;
  const home = join(dataDirectory, "dashboard");
  const name = await hashOfSources();
  const built = join(home, name);
  if (existsSync(built)) return built;
  const unfinished = join(home, `${name}.${process.pid}`);
  await mkdir(home, { recursive: true });
  await buildDashboard(unfinished);
  for (const earlier of await readdir(home)) {
    if (!earlier.startsWith(name)) await rm(join(home, earlier), { recursive: true });
  }
  await rename(unfinished, built);
  return built;
}

/** Builds the page from the sources of this checkout into a directory. */
export async function buildDashboard(target: string): Promise<void> {
  const vite = join(repository, "node_modules/vite/bin/vite.js");
  const options = ["--outDir", target, "--emptyOutDir", "--logLevel", "warn", "--configLoader", "native"];
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", vite, "build", ...options], {
    cwd: join(repository, "packages/dashboard"),
    stdio: ["ignore", "pipe", "pipe"],
    timeout: buildMs,
    killSignal: "SIGKILL",
  });
  const ended = Promise.withResolvers<number | string | null>();
  child.once("error", ended.reject);
  child.once("exit", (code, signal) => ended.resolve(code ?? signal));
  const [status, ...output] = await Promise.all([ended.promise, text(child.stdout), text(child.stderr)]);
  if (status === 0) return;
  await rm(target, { recursive: true, force: true });
  throw new SandboxError(
    "unavailable",
    `cannot build the dashboard (${status}): ${output.join("").trim().slice(-2000)}`,
  );
}

async function hashOfSources(): Promise<string> {
  const hash = createHash("sha256");
  for (const source of sources) {
    for (const file of await filesOf(source)) hash.update(`${file}\0`).update(await readFile(join(repository, file)));
  }
  return hash.digest("hex").slice(0, 32);
}

/** The files below a path, or the path itself, in a fixed order. */
async function filesOf(path: string): Promise<string[]> {
  if (!path.startsWith("packages/")) return [path];
  const entries = await readdir(join(repository, path), { withFileTypes: true, recursive: true });
  return entries
    .filter(
      (entry) => entry.isFile() && !/\.test\.ts$|\/(node_modules|dist)\//.test(join(entry.parentPath, entry.name)),
    )
    .map((entry) => join(entry.parentPath, entry.name).slice(repository.length + 1))
    .toSorted();
}
