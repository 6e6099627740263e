import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { globSync } from "node:fs";
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { promisify } from "node:util";
import { Sandbox } from "@opensandbox/sdk";
import { listImages, readConfig, removeImage } from "@opensandbox/server";
import { imageOf, type LayerEntry, tarOf } from "../../packages/worker/src/images/oci/testing/layers.ts";
import { cliEnvironment, startCli } from "./cli.ts";
import { Registry } from "./registry.ts";
import { startWorld, type World } from "./world.ts";

const run = promisify(execFile);
const launcher = join(import.meta.dirname, "../../opensandbox");

// Images of a real registry in real machines.
suite("images of registries", { skip: whyNot() }, () => {
  const stack = new AsyncDisposableStack();
  let directory: string;
  let registry: Registry;
  let world: World;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-oci-"));
    stack.defer(() => rm(directory, { recursive: true, force: true }));
    registry = stack.use(await Registry.start());
    stack.defer(async () => {
      const config = readConfig(process.env);
      for (const { name } of await listImages(config)) {
        if (name.startsWith(registry.host)) await removeImage(config, name);
      }
    });
    world = stack.use(
      await startWorld({
        OPENSANDBOX_REGISTRIES: `${registry.host}=${registry.origin}`,
        OPENSANDBOX_TEMPLATES_DIR: join(directory, "templates"),
      }),
    );
  });
  after(() => stack.disposeAsync());

  const create = async (image: string): Promise<Sandbox> =>
    await Sandbox.create({ url: world.url, apiKey: world.apiKey, image });

  test("a Debian from its packages runs as its configuration says, hibernates and forks", async () => {
    const tar = await debianTar(directory);
    const image = imageOf(
      [
        { tar: await readFile(tar), form: "tar+gzip" },
        { tar: tarOf([{ path: "app/greeting", content: "hello" }, { path: "etc/.wh.motd" }]), form: "tar+zstd" },
      ],
      { Env: ["PATH=/app:/usr/bin:/bin", "GREETING=hi"], WorkingDir: "/app" },
    );
    const sandbox = await create(await registry.push("test/debian", "trixie", image));
    const text = async (command: string, user?: string): Promise<string> => {
      const { exitCode, stdout, stderr } = await sandbox.exec.run(command, user === undefined ? {} : { user });
      assert.equal(exitCode, 0, stderr);
      return stdout.trim();
    };
    assert.equal(await text("cat greeting; echo; whoami; echo $GREETING; test ! -e /etc/motd"), "hello\nroot\nhi");
    assert.equal(await text("sudo id -u", "sandbox"), "0");
    assert.equal(await text("stat -c %U /workspace && touch /workspace/mine", "sandbox"), "sandbox");
    assert.match(await text("modprobe -n -v overlay || ls /lib/modules"), /./);

    await text("echo kept >/app/kept; (sleep 1000 & echo $! >/app/pid)");
    await sandbox.hibernate();
    await sandbox.wake();
    assert.equal(await text("cat /app/kept; kill -0 $(cat /app/pid) && echo alive"), "kept\nalive");
    const fork = await sandbox.fork();
    assert.equal((await fork.exec.run("cat /app/kept")).stdout, "kept\n");
    await fork.kill();
    await sandbox.kill();
  });

  test("an image of one static program has a shell, and its program runs", async () => {
    const busybox = await readFile(busyboxOfHost());
    const image = imageOf([{ tar: tarOf([{ path: "opt/busybox", content: busybox, mode: 0o755 }]) }], {
      Entrypoint: ["/opt/busybox"],
      User: "1234:5678",
    });
    const sandbox = await create(await registry.push("test/scratch", "latest", image));
    const direct = await sandbox.exec.run(["/opt/busybox", "echo", "from the program"]);
    assert.equal(direct.stdout, "from the program\n");
    assert.equal((await sandbox.exec.run("id -u; id -g; pwd; uname -s")).stdout, "1234\n5678\n/\nLinux\n");
    await sandbox.files.write("/workspace/a", "a");
    assert.equal(await sandbox.files.readText("/workspace/a"), "a");
    await sandbox.kill();
  });

  test("an image that is not there, or may not be pulled, is refused with words", async () => {
    await assert.rejects(create(`${registry.host}/test/missing:1`), /has no such image/);
    await assert.rejects(create("registry.invalid/a:1"), /OPENSANDBOX_REGISTRIES/);
    await assert.rejects(create("../escape:1"), /names no image/);
  });

  test("a Dockerfile is built in a sandbox, and its image runs here", async () => {
    const source = join(directory, "source");
    await mkdir(join(source, "left-out"), { recursive: true });
    await copyFile(busyboxOfHost(), join(source, "busybox"));
    await writeFile(join(source, "left-out/file"), "secret");
    await writeFile(join(source, ".dockerignore"), "left-out\n");
    await writeFile(
      join(source, "Dockerfile"),
      [
        "FROM scratch AS base",
        "ARG GREETING",
        "COPY busybox /bin/sh",
        'RUN echo "$GREETING" >/greeting',
        "FROM base",
        "COPY . /all",
        "ENV PLACE=here",
        "WORKDIR /all",
      ].join("\n"),
    );
    const env = { ...cliEnvironment(directory), OPENSANDBOX_API_URL: world.url, OPENSANDBOX_API_KEY: world.apiKey };
    const tag = `${registry.host}/built:1`;
    const args = ["image", "build", "--tag", tag, "--build-arg", "GREETING=hello", source];
    const built = await startCli([launcher], args, { env, stdin: null }).ended;
    assert.equal(built.code, 0, built.stderr);
    assert.match(built.stderr, /STEP/);
    const sandbox = await create(tag);
    assert.equal(
      (await sandbox.exec.run("cat /greeting; pwd; echo $PLACE; ls")).stdout,
      "hello\n/all\nhere\nDockerfile\nbusybox\n",
    );
    await sandbox.kill();

    await writeFile(join(source, "Dockerfile"), "FROM scratch\nCOPY missing /\n");
    const failed = await startCli([launcher], args, { env, stdin: null }).ended;
    assert.notEqual(failed.code, 0);
    assert.match(failed.stderr, /missing/);
  });

  test("a hostile image leaves nothing behind", async () => {
    const layers: readonly LayerEntry[][] = [[{ path: "../../escape", content: "x" }], [{ path: "disk", type: "3" }]];
    for (const [index, layer] of layers.entries()) {
      const name = await registry.push("test/hostile", `${index}`, imageOf([{ tar: tarOf(layer) }]));
      await assert.rejects(create(name), /refused/);
    }
    const { imagesDirectory } = world.config;
    assert.deepEqual(globSync("{,.}*unfinished*", { cwd: imagesDirectory }), []);
  });
});

/**
 * An archive of a Debian with sudo that has nothing of ours. It is the image `minimal` without its user and settings, so
 * no package is downloaded.
 */
async function debianTar(directory: string): Promise<string> {
  const config = readConfig(process.env);
  const minimal = (await listImages(config)).find(({ name }) => name === "minimal");
  assert.ok(minimal?.built, "the image minimal is not built: ./opensandbox image build minimal");
  const rootfs = join(config.imagesDirectory, `image-${minimal.hash}`, "rootfs.ext4");
  const root = join(directory, "debian");
  await mkdir(root);
  await run("debugfs", ["-R", `rdump / ${root}`, rootfs], { timeout: 120_000 });
  const ours = ["home/sandbox", "workspace", "lib/modules", "etc/sudoers.d/sandbox", "etc/resolv.conf", "etc/pip.conf"];
  // These files make the layer larger, and no step of the test reads them.
  const large = ["usr/share/doc", "usr/share/perl", "usr/lib/python3", "usr/lib/python3.13", "var/lib/apt/lists"];
  for (const path of [...ours, ...large]) await rm(join(root, path), { recursive: true, force: true });
  for (const file of ["passwd", "shadow", "group", "gshadow"]) {
    const path = join(root, "etc", file);
    await writeFile(path, (await readFile(path, "utf8")).replace(/^sandbox:.*\n/m, ""));
  }
  // debugfs restores the mode of a file before its owner, which clears this bit.
  await chmod(join(root, "usr/bin/sudo"), 0o4755);
  const tar = join(directory, "debian.tar");
  const owners = ["--owner=0", "--group=0", "--numeric-owner"];
  await run("tar", ["--create", `--file=${tar}`, ...owners, `--directory=${root}`, "."], { timeout: 120_000 });
  await rm(root, { recursive: true });
  return tar;
}

function busyboxOfHost(): string {
  return globSync(join(readConfig(process.env).imagesDirectory, "kit-*/busybox"))[0] ?? assert.fail("there is no kit");
}

function whyNot(): string | false {
  try {
    execFileSync("docker-registry", ["--version"], { stdio: "ignore" });
    return false;
  } catch {
    return "docker-registry is not installed";
  }
}
