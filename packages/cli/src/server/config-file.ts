import { chmod, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { z } from "zod";
import { SandboxError } from "@opensandbox/wire/errors.ts";

const Config = z.object({ apiUrl: z.string().optional(), apiKey: z.string().optional() });

/** What a user has set once and for all. */
export type Config = z.infer<typeof Config>;

type Environment = Readonly<Record<string, string | undefined>>;

export function configFile(env: Environment): string {
  return join(env["XDG_CONFIG_HOME"] || join(homedir(), ".config"), "opensandbox", "config.json");
}

/** @throws `invalid_argument` naming the file when it cannot be understood */
export async function readConfigFile(file: string): Promise<Config> {
  try {
    return Config.parse(JSON.parse(await readFile(file, "utf8")));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return {};
    const reason = cause instanceof z.ZodError ? z.prettifyError(cause) : (cause as Error).message;
    throw new SandboxError("invalid_argument", `cannot read ${file}: ${reason}`, { cause });
  }
}

/** Only this user can read the file, and the directory that is made for it. */
export async function writeConfigFile(file: string, config: Config): Promise<void> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  await chmod(dirname(file), 0o700);
  const temporary = `${file}.${process.pid}`;
  await rm(temporary, { force: true });
  await writeFile(temporary, `${JSON.stringify(config, undefined, 2)}\n`, { mode: 0o600, flag: "wx" });
  await rename(temporary, file);
}
