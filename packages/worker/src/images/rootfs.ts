import { cp, readFile } from "node:fs/promises";
import { join } from "node:path";
import { hashOfFile, provideArtifact } from "#images/artifact.ts";
import { makeExt4 } from "#images/ext4.ts";
import { artifactPlace, type ImageSource } from "#images/image-source.ts";
import type { Kit } from "#images/kit.ts";
import { type BuildOptions, debianProgress } from "#images/progress.ts";
import { removeBuild, runPrivileged } from "#images/privileged.ts";
import type { Recipe } from "#images/recipe.ts";

export interface Rootfs {
  readonly path: string;
  readonly hash: string;
}

/** Documentation and translations are left out; the copyright files that licences ask for stay. */
const leftOut = [
  ...["path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright"],
  ...["path-exclude=/usr/share/man/*", "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/lintian/*"],
  ...["path-exclude=/usr/share/locale/*", "path-include=/usr/share/locale/locale.alias"],
];

/** The root file system of an image, built when it is missing, which takes minutes. */
export async function provideRootfs(
  source: ImageSource,
  recipe: Recipe,
  kit: Kit,
  { onProgress, signal }: BuildOptions,
): Promise<Rootfs> {
  const { name, suite, packages, services, groups, rootfsMib } = recipe;
  const setup = join(source.recipesDirectory, "setup.sh");
  const artifact = await provideArtifact({
    kind: "image",
    ...artifactPlace(source),
    inputs: {
      ...{ name, suite, packages, rootfsMib, leftOut, kit: kit.id, setup: await hashOfFile(setup) },
      // The hash of a recipe without these stays the same.
      ...(Object.keys(services).length === 0 ? {} : { services }),
      ...(groups.length === 0 ? {} : { groups }),
    },
    needMib: recipe.buildMib,
    signal,
    build: async (target) => {
      const title = `building the image ${name}`;
      onProgress?.({ step: `${title}: reading package lists`, percent: 0 });
      const root = join(target, "root");
      await runPrivileged(
        title,
        [
          ...(["mmdebstrap", "--verbose", "--mode=root", "--format=directory", "--variant=minbase"] as const),
          ...["--skip=cleanup/apt/lists", ...leftOut.map((option) => `--dpkgopt=${option}`)],
          ...[`--include=${packages.join(",")}`, `--customize-hook=${await readFile(setup, "utf8")}`],
          ...hooksOf(recipe),
          ...[suite, root, ...packageSources(source, suite)],
        ],
        {
          env: { TMPDIR: target, DEBIAN_FRONTEND: "noninteractive" },
          ...(signal === undefined ? {} : { signal }),
          ...(onProgress === undefined ? {} : { onLine: debianProgress(title, onProgress) }),
        },
      );
      onProgress?.({ step: `${title}: making the file system`, percent: 99 });
      await cp(kit.modules, join(root, "usr/lib/modules"), { recursive: true, preserveTimestamps: true });
      const file = join(target, "rootfs.ext4");
      await makeExt4({
        file,
        sizeMib: rootfsMib,
        content: root,
        label: "rootfs",
        uuid: "b3e7a0c4-2f61-4f0e-9a57-6d1c52b0e001",
        journalMib: 32,
        ...(signal === undefined ? {} : { signal }),
      });
      await removeBuild(root);
      return { name, kernelVersion: kit.kernelVersion };
    },
  });
  return { path: join(artifact.directory, "rootfs.ext4"), hash: artifact.hash };
}

/**
 * Writes and enables a unit for each service, and adds the user to the groups. The init script of a service goes: scripts
 * of packages expect a boot that has mounted the hierarchies of cgroups.
 */
function hooksOf({ services, groups }: Recipe): readonly string[] {
  const units = '"$1/etc/systemd/system"';
  const enabled = '"$1/etc/opensandbox/services"';
  const commands = [
    ...Object.entries(services).flatMap(([name, command]) => [
      `mkdir -p ${units} ${enabled}`,
      `printf '[Service]\\nExecStart=%s\\nRestart=on-failure\\n' '${command}' >${units}/${name}.service`,
      `: >${enabled}/${name}`,
      `rm -f "$1/etc/init.d/${name}"`,
    ]),
    ...groups.map((group) => `chroot "$1" usermod --append --groups ${group} sandbox`),
  ];
  return commands.length === 0 ? [] : [`--customize-hook=set -eu; ${commands.join("; ")}`];
}

function packageSources({ debianMirror, debianSecurityMirror }: ImageSource, suite: string): readonly string[] {
  return [
    `deb ${debianMirror} ${suite} main`,
    `deb ${debianMirror} ${suite}-updates main`,
    `deb ${debianSecurityMirror} ${suite}-security main`,
  ];
}
