import { dataDirectory } from "./options.ts";

export const unitName = "opensandbox.service";
export const firewallUnitName = "opensandbox-firewall.service";

/** The first version of systemd that starts a delegating unit in a cgroup below its own. */
const minDelegatingVersion = 254;

/**
 * The unit of a server with control plane and worker.
 *
 * A restart leaves the machines running for the next server; a stop and a shutdown hibernate them. Options that give the
 * service a mount namespace (ProtectSystem, ProtectHome, PrivateTmp and others) are absent: the next server would not
 * see the network namespaces of the machines that it adopts.
 */
export function serviceUnit({
  launcher,
  systemdVersion,
}: {
  readonly launcher: string;
  readonly systemdVersion: number;
}): string {
  // Without delegation, the worker makes the machines' cgroups at the top of the hierarchy. An older systemd could not
  // restart a delegating unit whose machines run on.
  const delegation = systemdVersion >= minDelegatingVersion ? "Delegate=yes\nDelegateSubgroup=server\n" : "";
  return `# Written by 'osb host setup'. Put changes of your own into ${unitName}.d/*.conf.
[Unit]
Description=OpenSandbox server
Wants=network-online.target
After=network-online.target systemd-modules-load.service systemd-sysctl.service nftables.service
RequiresMountsFor=${dataDirectory}
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=${quoted(launcher)} up
ExecStop=/bin/sh -c '[ -n "\${MAINPID}" ] || exit 0; signal=TERM; if systemctl list-jobs --no-legend | grep -Eq " %n +restart "; then signal=USR2; fi; kill -s "$$signal" "\${MAINPID}"; while kill -0 "\${MAINPID}" 2>/dev/null; do sleep 0.2; done'
EnvironmentFile=-/etc/opensandbox/server.env
Environment=XDG_CACHE_HOME=/var/cache
CacheDirectory=opensandbox
CacheDirectoryMode=0700
Restart=always
RestartSec=5
# Hibernating all sandboxes writes their memory to the disk.
TimeoutStopSec=900
# Ends the server alone. Machines outlive it.
KillMode=process
# A machine that the kernel kills for lack of memory must not stop the service.
OOMPolicy=continue
${delegation}LimitNOFILE=1048576
LimitNPROC=infinity
LimitMEMLOCK=infinity
TasksMax=infinity

NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET AF_VSOCK
CapabilityBoundingSet=~CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_BLOCK_SUSPEND CAP_BPF CAP_CHECKPOINT_RESTORE CAP_LEASE
CapabilityBoundingSet=~CAP_LINUX_IMMUTABLE CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_PERFMON CAP_SYSLOG CAP_SYS_BOOT
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_PACCT CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_WAKE_ALARM

[Install]
WantedBy=multi-user.target
`;
}

/** Loads the firewall's table at boot, before the network is up. */
export function firewallUnit(rulesFile: string): string {
  return `# Written by 'osb host setup'.
[Unit]
Description=Firewall of OpenSandbox
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target shutdown.target
After=local-fs.target systemd-modules-load.service nftables.service
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft --file ${rulesFile}
ExecReload=/usr/sbin/nft --file ${rulesFile}
ExecStop=/usr/sbin/nft delete table inet opensandbox_host

[Install]
WantedBy=multi-user.target
`;
}

/** systemd.service(5): quotes keep blanks in a path; % begins a specifier and $ a variable. */
function quoted(path: string): string {
  return `"${path.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("%", "%%").replaceAll("$", "$$$$")}"`;
}
