import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream } from "node:fs";
import { chmod, chown, mkdir, mkdtemp, readdir, readFile, realpath, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { after, before, suite, test } from "node:test";
import { version } from "@opensandbox/wire/version.ts";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";
import { installScript } from "../../tools/package/install-script.ts";
import { type EndedCli, startCli } from "../e2e/cli.ts";

// The installer as a user runs it, `curl URL | sh`, with a release on a server of this host. Nobody needs root for that.

const root = resolve(import.meta.dirname, "../..");
const nobody = 65_534;
const skip = process.getuid?.() === 0 ? false : "only root can become another user";

suite("install.sh", { skip }, () => {
  const stack = new AsyncDisposableStack();
  let directory: string;
  let url: string;
  let archive: string;
  let sha256: string;
  let homes = 0;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-install-"));
    stack.defer(() => rm(directory, { recursive: true }));
    await chmod(directory, 0o755);
    const node = [process.execPath, "--disable-warning=ExperimentalWarning"] as const;
    const build = [...node, join(root, "tools/package/build.ts"), "archive", directory] as const;
    archive = basename((await runCommand("build the archive", build)).trim());
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(join(directory, archive))) hash.update(chunk as Buffer);
    sha256 = hash.digest("hex");
    const server = createServer((request, response) => {
      const file = createReadStream(join(directory, basename(request.url ?? "")));
      file.on("error", () => response.writeHead(404).end());
      file.pipe(response);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    stack.defer(() => void server.close());
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(() => stack.disposeAsync());

  const script = async (values: Partial<Record<"url" | "sha256" | "archive", string>> = {}): Promise<string> =>
    installScript(await readFile(join(root, "tools/package/install.sh"), "utf8"), {
      ...{ url, version, archive, sha256 },
      ...values,
    });

  async function newHome(): Promise<string> {
    const home = join(directory, `home-${(homes += 1)}`);
    await mkdir(home);
    await chown(home, nobody, nobody);
    return home;
  }

  const asUser = ["setpriv", "--reuid", `${nobody}`, "--regid", `${nobody}`, "--clear-groups"] as const;

  /** Pipes the text of an installer into sh. */
  async function install(text: string, home: string): Promise<EndedCli> {
    return await startCli([...asUser, "sh"], [], { env: { HOME: home }, stdin: text }).ended;
  }

  test("installs for one user without root, and the program runs", async () => {
    const home = await newHome();
    const { code, stderr } = await install(await script(), home);
    assert.equal(code, 0, stderr);
    assert.match(stderr, new RegExp(`^opensandbox: installed osb ${version} .* in ${home}/`, "m"));
    const osb = join(home, ".local/bin/osb");
    const target = join(home, ".local/share/opensandbox/program");
    assert.equal(await realpath(osb), join(target, version, "opensandbox"));
    assert.deepEqual(await readdir(target), [version]);
    const { stdout } = await startCli([...asUser, osb], ["--version"], { env: { HOME: home }, stdin: null }).ended;
    assert.equal(stdout.toString(), `osb ${version} (Node ${process.versions.node})\n`);
    const again = await install(await script(), home);
    assert.equal(again.code, 0, again.stderr);
    assert.match(again.stderr, /is installed already/);
    assert.deepEqual(await readdir(target), [version]);
  });

  async function refuses(text: string, says: RegExp): Promise<void> {
    const home = await newHome();
    const { code, stderr } = await install(text, home);
    assert.notEqual(code, 0);
    assert.match(stderr, says);
    const left = await readdir(join(home, ".local/share/opensandbox/program")).catch(() => []);
    assert.deepEqual([left, await readdir(join(home, ".local/bin")).catch(() => [])], [[], []]);
  }

  test("an archive with another hash is refused and leaves nothing", async () => {
    await writeFile(join(directory, "other.tar.gz"), "not the archive");
    await refuses(await script({ archive: "other.tar.gz" }), /other\.tar\.gz is not the archive of this installer/);
  });

  test("an archive that does not exist is said and leaves nothing", async () => {
    await refuses(await script({ archive: "gone.tar.gz" }), /cannot fetch http:.*gone\.tar\.gz/);
  });

  test("an installer that arrives in part does nothing", async () => {
    const whole = await script();
    for (const part of [0.3, 0.6, 0.9, 0.999]) {
      const home = await newHome();
      await install(whole.slice(0, Math.floor(whole.length * part)), home);
      assert.deepEqual(await readdir(home), [], `${part}`);
    }
  });

  test("another program osb is left alone", async () => {
    const home = await newHome();
    const bin = join(home, ".local/bin");
    await mkdir(bin, { recursive: true });
    await writeFile(join(bin, "osb"), "another program");
    for (const path of [join(home, ".local"), bin]) await chown(path, nobody, nobody);
    const { code, stderr } = await install(await script(), home);
    assert.equal(code, 1);
    assert.match(stderr, /\.local\/bin\/osb is another program/);
    assert.equal((await stat(join(bin, "osb"))).size, "another program".length);
  });
});
