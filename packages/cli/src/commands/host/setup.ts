import { flag } from "#arguments/inputs.ts";
import { columns } from "#output/table.ts";
import { defineCommand } from "../../command.ts";
import { launcherPath, requirePermanent } from "../../installation.ts";
import { findingLines } from "./finding-lines.ts";
import { checkSetupInput, optionsFrom, setupOptions } from "./host-options.ts";
import { requireRoot } from "./require-root.ts";

export const setup = defineCommand({
  summary: "Set this host up: packages, kernel, data disk and service",
  description: `For Debian 12 and 13, and Ubuntu 24.04. Says each change, records it in /etc/opensandbox/setup.json for 'host
remove', and leaves correct parts alone. After an interruption, run it again.

The service runs the program from the directory where it is now. 'systemctl restart opensandbox' leaves the machines
running for the next server; 'systemctl stop opensandbox' and a shutdown hibernate the sandboxes. Settings are in
/etc/opensandbox/server.env.

With --role server or worker, this host becomes a node of a fleet. A server gets a token, with which workers join; it
runs no machines and needs no KVM.

A disk is formatted only if it has no partition table, no file system and no other signature. The data directory is
/var/lib/opensandbox, on that disk.`,
  options: {
    ...setupOptions,
    prepare: flag("prepare packages, kernel and disk alone, as in an image of hosts"),
    dryRun: flag("say what differs and change nothing"),
  },
  examples: [
    { line: "host setup", shows: "set this host up and start the server on 127.0.0.1:8080" },
    { line: "host setup --dry-run", shows: "show what a set-up would change" },
    {
      line: "host setup --listen 0.0.0.0 --port 443 --tls-cert /etc/tls.pem --tls-key /etc/tls.key",
      shows: "serve other hosts",
    },
    { line: "host setup --role server --listen 0.0.0.0", shows: "make this host the server of a fleet" },
    { line: "host setup --role worker --join https://10.0.0.1:8443", shows: "make this host a worker of that server" },
  ],
  check: checkSetupInput,
  async run({ prepare, dryRun, ...input }, context) {
    const { checkHost, setUpHost } = await import("./set-up-host.ts");
    const { System } = await import("./system.ts");
    const { readRecord } = await import("./record.ts");
    const { dataDirectoryOf } = await import("./steps/settings.ts");
    const { findServer } = await import("@opensandbox/server/server-file.ts");
    const { waitForServer } = await import("./service/wait-for-server.ts");
    const { unitNames } = await import("./units.ts");
    const { host, print, note, progress, signal } = context;
    const common = { system: new System(), launcher: launcherPath, options: optionsFrom(input), onlyPrepare: prepare };
    if (dryRun) {
      const findings = await checkHost({ ...common, program: host.program });
      await print({ styled: findingLines(findings, host.stdout) }, findings);
      return 0;
    }
    requireRoot(host.program, "host setup");
    requirePermanent();
    using shown = progress();
    shown.report("setting this host up");
    const onStep = ({ step, done }: { readonly step: string; readonly done?: string }): void => {
      shown.pause();
      if (done !== undefined) note(`${step}: ${done}`);
      shown.report("setting this host up");
    };
    const steps = await setUpHost({ ...common, onStep }, signal);
    const changed = steps.filter(({ done }) => done !== undefined);
    const rows = columns(steps.map(({ step, done }) => [step, done === undefined ? "unchanged" : "changed"]));
    if (prepare) {
      shown.pause();
      await print(`${rows}\n\nThis host is prepared: '${host.program} host setup' adds the service`, { changed });
      return 0;
    }
    const { role = "combined" } = (await readRecord(common.system))?.options ?? {};
    if (role === "worker") {
      shown.pause();
      await print(`${rows}\n\nThe worker starts at boot; 'osb admin workers' on its server lists it`, { changed });
      return 0;
    }
    shown.report("waiting for the server");
    const directory = await dataDirectoryOf(common.system);
    const find = async () => await findServer(directory);
    const { url } = await waitForServer({ system: common.system, unitName: unitNames[role], find }, signal);
    shown.pause();
    await print(`${rows}\n\nOpenSandbox runs at ${url} and starts at boot\nTry: ${host.program} run -- uname -a`, {
      url,
      changed,
    });
    return 0;
  },
});
