import { columns } from "#output/table.ts";
import { one, text } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";
import { installationRoot } from "../../installation.ts";
import { requireRoot } from "../host/require-root.ts";

export const upgrade = defineCommand({
  summary: "Replace the version on this host by that of a package",
  description: `PACKAGE is the file or the URL of another version, in the form that is installed: a Debian package (.deb) or an
archive (.tar.gz). The hash of a URL comes from --sha256, or from the file SHA256SUMS beside it.

First lets the new version check the database and every snapshot. Refuses the upgrade when the new version could not use
the database, or could not restore a snapshot that this version can restore. Then copies the database, installs the new
version and restarts the service. Running machines keep running, and the new server adopts them.`,
  arguments: { package: one("PACKAGE") },
  options: { sha256: text("HASH", "refuse a package with another SHA-256, in hexadecimal") },
  examples: [
    { line: "upgrade ./opensandbox_0.2.0_amd64.deb", shows: "upgrade to the version of a file" },
    { line: "upgrade https://example.com/opensandbox-0.2.0-linux-x64.tar.gz", shows: "fetch it, and verify its hash" },
  ],
  check: ({ sha256 }) =>
    sha256 === undefined || /^[0-9a-f]{64}$/i.test(sha256) ? undefined : "--sha256 takes 64 hexadecimal digits",
  async run({ package: from, sha256 }, { host, print, note, progress, signal }) {
    requireRoot(host.program, "upgrade");
    const { upgradeHost } = await import("./upgrade-host.ts");
    const { System } = await import("../host/system.ts");
    using shown = progress();
    const onStep = (step: string): void => shown.report(step);
    const request = { system: new System(), root: installationRoot, from, sha256: sha256?.toLowerCase() };
    const { before, after, copy, isServing } = await upgradeHost({ ...request, onStep }, signal);
    shown.pause();
    if (copy === undefined) note("there was no database to copy");
    const rows = [
      ["before", before],
      ["now", after],
      ...(copy === undefined ? [] : [["copy of the database", copy]]),
      ["service", isServing ? "restarted; its machines ran on" : "did not run, and does not run now"],
    ];
    await print(columns(rows), { before, after, isServing, ...(copy === undefined ? {} : { copy }) });
  },
});
