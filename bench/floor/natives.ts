import { execFile } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const programs = ["spawn", "tick", "answer", "memory", "channel", "transfer", "disk", "fill"] as const;

/** Paths of static programs for this processor. Some run on the host, some are copied into a guest. */
export type Natives = Readonly<Record<(typeof programs)[number], string>>;

/**
 * Compiles the floor's programs. @throws with the compiler's output; without a compiler, with the package to install
 */
export async function compileNatives(directory: string, signal: AbortSignal): Promise<Natives> {
  await mkdir(directory, { recursive: true });
  const compiled = await Promise.all(
    programs.map(async (name): Promise<[string, string]> => {
      const source = join(import.meta.dirname, "native", `${name}.c`);
      const program = join(directory, name);
      await compile(source, program, signal);
      return [name, program];
    }),
  );
  return Object.fromEntries(compiled) as Record<(typeof programs)[number], string>;
}

async function compile(source: string, program: string, signal: AbortSignal): Promise<void> {
  try {
    await promisify(execFile)("gcc", ["-O2", "-Wall", "-Wextra", "-static", "-o", program, source], { signal });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new Error("the floor is native code and there is no compiler: install gcc and libc6-dev", { cause: error });
  }
}
