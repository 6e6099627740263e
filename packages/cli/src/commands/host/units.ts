import { dataDirectory, type Role } from "./options.ts";

export const unitNames: Readonly<Record<Role, string>> = {
  combined: "opensandbox.service",
  server: "opensandbox-server.service",
  worker: "opensandbox-worker.service",
};
export const firewallUnitName = "opensandbox-firewall.service";

/** The system user of a server without machines. */
export const serverUser = "opensandbox";

/** The first version of systemd that starts a delegating unit in a cgroup below its own. */
const minDelegatingVersion = 254;

export interface ServiceUnit {
  readonly role: Role;
  /** The absolute path of the program `opensandbox` or `osb`. */
  readonly launcher: string;
  /** Undefined: the unit must do for every supported version. */
  readonly systemdVersion?: number;
  /** The author of the file, for its first line. */
  readonly author: string;
}

/**
 * The unit of a role.
 *
 * A restart leaves the machines running for the next server or worker. A stop and a shutdown of `combined` hibernate
 * them. Where there are machines, options that give the service a mount namespace (ProtectSystem, ProtectHome, PrivateTmp
 * and others) are absent: the next server would not see the network namespaces of the machines that it adopts.
 */
export function serviceUnit({ role, launcher, systemdVersion = 0, author }: ServiceUnit): string {
  const { description, service } = parts[role];
  return `# Written by ${author}. Put changes of your own into ${unitNames[role]}.d/*.conf.
[Unit]
Description=${description}
Wants=network-online.target
After=network-online.target systemd-modules-load.service systemd-sysctl.service nftables.service
RequiresMountsFor=${dataDirectory}
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=${quoted(launcher)} up
EnvironmentFile=-/etc/opensandbox/server.env
${role === "combined" ? "" : `Environment=OPENSANDBOX_MODE=${role}\n`}Environment=XDG_CACHE_HOME=/var/cache
CacheDirectory=opensandbox
CacheDirectoryMode=0700
Restart=always
RestartSec=5
LimitNOFILE=1048576
${service(systemdVersion)}
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
`;
}

interface Parts {
  readonly description: string;
  /** The lines of the section Service that other roles do not share. */
  readonly service: (systemdVersion: number) => string;
}

const parts: Readonly<Record<Role, Parts>> = {
  combined: {
    description: "OpenSandbox server",
    service: (
      version,
    ) => `ExecStop=/bin/sh -c '[ -n "\${MAINPID}" ] || exit 0; signal=TERM; if systemctl list-jobs --no-legend | grep -Eq " %n +restart "; then signal=USR2; fi; kill -s "$$signal" "\${MAINPID}"; while kill -0 "\${MAINPID}" 2>/dev/null; do sleep 0.2; done'
# Hibernating all sandboxes writes their memory to the disk.
TimeoutStopSec=900
${aroundMachines(version)}`,
  },
  worker: {
    description: "OpenSandbox worker of a fleet",
    service: (version) => `TimeoutStopSec=60
${aroundMachines(version)}`,
  },
  server: {
    description: "OpenSandbox server of a fleet",
    service: () => `User=${serverUser}
Environment=OPENSANDBOX_DATA_DIR=${dataDirectory}
StateDirectory=opensandbox
StateDirectoryMode=0711
# 'osb fleet init' and a restored backup leave files of root.
ExecStartPre=+/bin/chown --recursive ${serverUser}: ${dataDirectory}
TimeoutStopSec=60
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
PrivateDevices=yes
PrivateTmp=yes
RemoveIPC=yes
RestrictNamespaces=yes
RestrictSUIDSGID=yes
UMask=0077
`,
  },
};

/** The lines of a service whose machines outlive it. */
function aroundMachines(systemdVersion: number): string {
  // Without delegation, the worker makes the machines' cgroups at the top of the hierarchy. An older systemd could not
  // restart a delegating unit whose machines run on.
  const delegation = systemdVersion >= minDelegatingVersion ? "Delegate=yes\nDelegateSubgroup=server\n" : "";
  return `# Ends the server alone. Machines outlive it.
KillMode=process
# A machine that the kernel kills for lack of memory must not stop the service.
OOMPolicy=continue
${delegation}LimitNPROC=infinity
LimitMEMLOCK=infinity
TasksMax=infinity
SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET AF_VSOCK
CapabilityBoundingSet=~CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_BLOCK_SUSPEND CAP_BPF CAP_CHECKPOINT_RESTORE CAP_LEASE
CapabilityBoundingSet=~CAP_LINUX_IMMUTABLE CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_PERFMON CAP_SYSLOG CAP_SYS_BOOT
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_PACCT CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_WAKE_ALARM
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
