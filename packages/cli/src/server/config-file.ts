import { chmod, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { z } from "zod";
import { SandboxError } from "@opensandbox/wire/errors.ts";

const Config = z.object({ apiUrl: z.string().optional(), apiKey: z.string().optional() });

/** The user's stored settings. */
export type Config = z.infer<typeof Config>;

type Environment = Readonly<Record<string, string | undefined>>;

export function configFile(env: Environment): string {
  return join(env["XDG_CONFIG_HOME"] || join(homedir(), ".config"), "opensandbox", "config.json");
}

/** @throws `invalid_argument` with the file's name when it is unreadable or invalid */
export async function readConfigFile(file: string): Promise<Config> {
  try {
    return Config.parse(JSON.parse(await readFile(file, "utf8")));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return {};
    const reason = cause instanceof z.ZodError ? z.prettifyError(cause) : (cause as Error).message;
    throw new SandboxError(
      "invalid_argument",
      `cannot read the configuration file ${file}: ${reason}. Correct or remove it`,
      { cause },
    );
  }
}

/** Writes the file. Only this user can read it and its directory. */
export async function writeConfigFile(file: string, config: Config): Promise<void> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  await chmod(dirname(file), 0o700);
  const temporary = `${file}.${process.pid}`;
  await rm(temporary, { force: true });
  await writeFile(temporary, `${JSON.stringify(config, undefined, 2)}\n`, { mode: 0o600, flag: "wx" });
  await rename(temporary, file);
}
