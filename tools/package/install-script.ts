export interface PublishedArchive {
  /** The address below which the release is served. */
  readonly url: string;
  readonly version: string;
  /** The name of the archive there. */
  readonly archive: string;
  readonly sha256: string;
}

/** Fills the installer in. @throws for a value that could end an assignment in a shell, and for a missing one */
export function installScript(source: string, archive: PublishedArchive): string {
  let script = source;
  for (const [name, value] of Object.entries(archive)) {
    if (!/^[\w.:/~%-]+$/.test(value)) throw new Error(`install.sh cannot have the ${name} ${value}`);
    const line = new RegExp(`^${name}=.*$`, "m");
    if (!line.test(script)) throw new Error(`install.sh has no line for the ${name}`);
    script = script.replace(line, `${name}=${value}`);
  }
  return script;
}
