import { cachedFile } from "#system/cached-file.ts";

/** What the image of a registry says about the commands that run in it. */
export interface ImageDefaults {
  readonly environment: Readonly<Record<string, string>>;
  /** The user of commands that name none. */
  readonly user: string;
  /** The working directory of commands that name none. Empty: the user's home. */
  readonly workdir: string;
}

/** The worker writes this file when it imports an image. Images with a recipe have none. */
export const imageDefaults = cachedFile("/etc/opensandbox-image.json", parseImageDefaults);

/** Reads the file as far as it can be understood: root of the guest may write anything to it. */
export function parseImageDefaults(text: string): ImageDefaults {
  const { env, user, workdir } = objectOf(text);
  const entries = (Array.isArray(env) ? (env as readonly unknown[]) : []).flatMap((entry) => {
    const equals = typeof entry === "string" && !entry.includes("\0") ? entry.indexOf("=") : -1;
    return equals < 1 ? [] : [[String(entry).slice(0, equals), String(entry).slice(equals + 1)] as const];
  });
  return {
    environment: Object.fromEntries(entries),
    user: typeof user === "string" && user !== "" ? user : "sandbox",
    workdir: typeof workdir === "string" && !workdir.includes("\0") ? workdir : "",
  };
}

function objectOf(text: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
  } catch {
    return {};
  }
}
