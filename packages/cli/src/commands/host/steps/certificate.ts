import { z } from "zod";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { AcmeChoice } from "../acme/acme-options.ts";
import { chainFile, isDue } from "../acme/certificate-files.ts";
import type { Role } from "../options.ts";
import { claim, ownedFile, release } from "../owned-file.ts";
import { defineStep, type Step } from "../step.ts";
import { unitNames } from "../units.ts";

const name = "opensandbox-certificate";
const serviceFile = `/etc/systemd/system/${name}.service`;
const timerFile = `/etc/systemd/system/${name}.timer`;

const schema = z.object({ service: ownedFile, timer: ownedFile });

interface Wanted {
  readonly launcher: string;
  readonly role: Role;
  readonly domain: string | undefined;
  readonly acme: AcmeChoice | undefined;
}

/** A certificate by ACME, and the timer that renews it. */
export function certificate({ launcher, role, domain, acme }: Wanted): Step {
  const words = [
    ...[
      "host",
      "certificate",
      "--domain",
      domain ?? "",
      "--acme-email",
      acme?.email ?? "",
      "--acme-hook",
      acme?.hook ?? "",
    ],
    ...(acme?.directory === undefined ? [] : ["--acme-directory", acme.directory]),
  ];
  const files = {
    service: serviceUnit([launcher, ...words, "--restart", unitNames[role]]),
    timer: timerUnit,
  };
  return defineStep({
    name: "certificate",
    schema,
    async check(system) {
      const chain = await system.read(chainFile);
      if (chain === undefined || isDue(chain, domain ?? "")) return { detail: `${chainFile} is missing or due` };
      if ((await system.read(serviceFile)) !== files.service || (await system.read(timerFile)) !== files.timer)
        return { detail: `${timerFile} differs from this version's` };
      const { code } = await system.ask("systemctl", "is-active", `${name}.timer`);
      return code === 0 ? undefined : { detail: `${name}.timer is not active, which renews the certificate` };
    },
    async apply(system, { before, remember }) {
      if (domain === undefined)
        throw new SandboxError("invalid_argument", "a certificate needs a domain: pass --domain");
      await system.change(launcher, ...words);
      await remember({
        service: await claim(system, serviceFile, files.service, before?.service),
        timer: await claim(system, timerFile, files.timer, before?.timer),
      });
      await system.write(serviceFile, files.service);
      await system.write(timerFile, files.timer);
      await system.change("systemctl", "daemon-reload");
      await system.change("systemctl", "enable", "--now", `${name}.timer`);
      return `got a certificate of ${domain} and *.${domain}, which ${name}.timer renews`;
    },
    async undo(system, { service, timer }) {
      if ((await system.read(timerFile)) !== undefined)
        await system.change("systemctl", "disable", "--now", `${name}.timer`);
      const done = [await release(system, timer), await release(system, service)];
      await system.change("systemctl", "daemon-reload");
      return `${done.join("; ")}; kept the certificate`;
    },
  });
}

function serviceUnit(words: readonly string[]): string {
  return `# Written by 'osb host setup'.
[Unit]
Description=Renews the certificate of OpenSandbox
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
TimeoutStartSec=1800
ExecStart=${words.map(quoted).join(" ")}
`;
}

const timerUnit = `# Written by 'osb host setup'.
[Unit]
Description=Renews the certificate of OpenSandbox

[Timer]
OnCalendar=daily
RandomizedDelaySec=12h
Persistent=true

[Install]
WantedBy=timers.target
`;

/** systemd.service(5): % begins a specifier and $ a variable. */
function quoted(word: string): string {
  const text = word.replaceAll("%", "%%").replaceAll("$", "$$$$");
  return /^[\w./:=@%$-]+$/.test(text) ? text : `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
}
