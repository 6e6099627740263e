import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdir, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { SandboxError } from "@opensandbox/wire/errors.ts";

export const repository = join(import.meta.dirname, "../../../..");

/** A build takes seconds, and longer on a crowded host. */
const buildMs = 300_000;

/** Files for browsers that are built from the sources of a checkout. */
export interface Pages {
  /** Their directory in an installed package, and below the data directory of a checkout's server. */
  readonly packagedAs: string;
  /** Everything that goes into them, below the repository. */
  readonly sources: readonly string[];
  /** Builds them into a directory. @throws `unavailable` when it fails */
  build(target: string): Promise<void>;
}

export const dashboardPages: Pages = {
  packagedAs: "dashboard",
  sources: ["packages/dashboard", "packages/sdk/src", "packages/wire/src", "package-lock.json"],
  async build(target) {
    const options = ["--outDir", target, "--emptyOutDir", "--logLevel", "warn", "--configLoader", "native"];
    const vite = ["node_modules/vite/bin/vite.js", "build", ...options];
    await runBuild("the dashboard", vite, join(repository, "packages/dashboard"), target);
  },
};

const generator = "tools/documentation";

export const documentationPages: Pages = {
  packagedAs: "documentation",
  sources: ["docs", `${generator}/.vitepress`, `${generator}/package-lock.json`],
  async build(target) {
    const modules = join(repository, generator, "node_modules");
    if (!existsSync(join(modules, "vitepress"))) {
      throw new SandboxError(
        "unavailable",
        `the documentation is not built, and its generator is not installed: run 'npm ci' in ${join(repository, generator)}, or read ${join(repository, "docs")}`,
      );
    }
    // VitePress writes beside its configuration, which several builds of one checkout would share.
    const work = `${target}.work`;
    try {
      await mkdir(work, { recursive: true });
      await cp(join(repository, generator, ".vitepress"), join(work, ".vitepress"), { recursive: true });
      await cp(join(repository, "docs"), join(work, "docs"), { recursive: true });
      await cp(join(repository, generator, "package.json"), join(work, "package.json"));
      await symlink(modules, join(work, "node_modules"));
      const vitepress = [`${generator}/node_modules/vitepress/bin/vitepress.js`, "build", work, "--outDir", target];
      await runBuild("the documentation", vitepress, work, target);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  },
};

/** @param program a script below the repository, and its arguments */
async function runBuild(what: string, program: readonly string[], cwd: string, target: string): Promise<void> {
  const [script = "", ...args] = program;
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", join(repository, script), ...args], {
    cwd,
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
  throw new SandboxError("unavailable", `cannot build ${what} (${status}): ${output.join("").trim().slice(-2000)}`);
}
