/** Where cloud-init fetches the program from, for hosts that are created without ssh. */
export interface Source {
  readonly url: string;
  /** Hexadecimal SHA-256 of the archive. */
  readonly sha256: string;
}

/**
 * User data for cloud-init. With a source, the first boot fetches and verifies the archive and runs `osb host setup`;
 * without one, the host waits for `osb azure deploy`.
 */
export function userData(source: Source | undefined, setupOptions: readonly string[]): string {
  const packages = ["package_update: true", "packages: [curl, ca-certificates, xz-utils]"];
  if (source === undefined) return `${["#cloud-config", ...packages].join("\n")}\n`;
  const archive = "/var/tmp/opensandbox.tar.gz";
  const script = "/var/tmp/setup-azure-host.sh";
  const commands = [
    ["curl", "--fail", "--location", "--retry", "5", "--output", archive, source.url],
    ["sh", "-c", `echo '${source.sha256}  ${archive}' | sha256sum --check --quiet`],
    ["sh", "-c", `tar -xzOf ${archive} ./deploy/azure/setup-azure-host.sh > ${script}`],
    ["sh", script, archive, ...setupOptions],
  ];
  // A JSON text is YAML. Each command runs only if those before it succeeded.
  const line = commands.map((words) => words.map(quoted).join(" ")).join(" && ");
  return `${["#cloud-config", ...packages, "runcmd:", `  - ${JSON.stringify(["sh", "-c", line])}`].join("\n")}\n`;
}

function quoted(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
