import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { suite, test } from "node:test";
import { type Argv, type Ran, System } from "../host/system.ts";
import { fetchPackage } from "./fetch-package.ts";
import { upgradeHost } from "./upgrade-host.ts";

const never = new AbortController().signal;
const debianRoot = "/usr/lib/opensandbox";
const database = "/var/lib/opensandbox/opensandbox.sqlite";

interface Facts {
  /** Whether the program is a package of dpkg. */
  readonly debian?: boolean;
  readonly files?: Readonly<Record<string, string>>;
  /** Problems with snapshots, by whether the next version finds them. */
  readonly problems?: { readonly now?: readonly string[]; readonly next?: readonly string[] };
  /** What the next version says against the database. */
  readonly databaseProblem?: string;
  readonly service?: string;
  /** The server of the next version ends at each start. */
  readonly crashes?: boolean;
}

/** A host whose programs only answer. `ran` has the lines of those that change something. */
class FakeInstallation implements AsyncDisposable {
  readonly directory: string;
  readonly file: string;
  readonly ran: string[] = [];
  readonly system: System;
  readonly #facts: Facts;
  #pid = 100;
  #restarts = 0;

  private constructor(directory: string, facts: Facts) {
    this.directory = directory;
    this.file = join(directory, facts.debian === false ? "next.tar.gz" : "next.deb");
    this.#facts = facts;
    this.system = new System({ root: directory, runner: async (argv) => await Promise.resolve(this.#answer(argv)) });
  }

  static async make(facts: Facts = {}): Promise<FakeInstallation> {
    const directory = await mkdtemp(join(tmpdir(), "osb-upgrade-"));
    const host = new FakeInstallation(directory, facts);
    for (const [path, content] of Object.entries({ [database]: "rows", ...facts.files })) {
      await mkdir(dirname(join(directory, path)), { recursive: true });
      await writeFile(join(directory, path), content);
    }
    await writeFile(host.file, "a package");
    return host;
  }

  async upgrade(from = this.file, sha256?: string, root = debianRoot) {
    const findServer = async () => await Promise.resolve(this.#facts.crashes === true ? undefined : { pid: this.#pid });
    const request = { system: this.system, root, from, sha256, onStep: () => undefined, findServer, pollMs: 1 };
    return await upgradeHost(request, never);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.directory, { recursive: true });
  }

  #answer(argv: Argv): Ran {
    const line = argv.join(" ");
    const { debian = true, problems, databaseProblem, service } = this.#facts;
    const ok = (stdout = ""): Ran => ({ code: 0, stdout, stderr: "" });
    const no = (stderr = ""): Ran => ({ code: 1, stdout: "", stderr });
    const isNext = line.includes("/content/");
    if (argv[0] === "dpkg-query") return debian ? ok("opensandbox: path\n") : no();
    if (line.includes(" version --json")) return ok(JSON.stringify({ version: isNext ? "2.0.0" : "1.0.0" }));
    if (line.includes(" admin migrate --dry-run"))
      return databaseProblem === undefined ? ok() : no(`osb: ${databaseProblem}\n`);
    if (line.includes(" admin snapshots ")) {
      const found = (isNext ? problems?.next : problems?.now) ?? [];
      const list = JSON.stringify(found.map((id) => ({ id, problem: "unknown format" })));
      return { code: found.length === 0 ? 0 : 1, stdout: list, stderr: "" };
    }
    if (line.startsWith("systemctl is-active")) return argv.at(-1) === service ? ok("active\n") : no();
    if (line.startsWith("systemctl show --property=NRestarts")) {
      if (this.#facts.crashes === true) this.#restarts += 1;
      return ok(`${this.#restarts}\n`);
    }
    if (line.startsWith("journalctl")) return ok("the disk is full\n");
    if (line.startsWith("systemctl show")) return ok(`${this.#pid}\n`);
    this.ran.push(
      line.replaceAll(/\/var\/tmp\/\.opensandbox-upgrade-\w+/g, "WORK").replaceAll(/\d{4}-\d\d-\d\dT[\d-]+Z/g, "NOW"),
    );
    if (line.startsWith("dpkg --install")) this.#pid += 1;
    return ok();
  }
}

const record = '{ "version": 1, "options": { "dataDisk": "none", "firewall": false, "settings": {} }, "steps": {} }';

test("an upgrade copies the database before it installs, and waits for the new server", async () => {
  await using host = await FakeInstallation.make({ service: "opensandbox.service" });
  const { before, after, copy, isServing } = await host.upgrade();
  assert.deepEqual([before, after, isServing], ["1.0.0", "2.0.0", true]);
  assert.match(copy ?? "", /^\/var\/lib\/opensandbox\/upgrades\/from-1\.0\.0-.*\.sqlite$/);
  assert.deepEqual(host.ran, [
    `dpkg-deb --extract ${host.file} WORK/content`,
    `env OPENSANDBOX_DATA_DIR=/var/lib/opensandbox ${debianRoot}/opensandbox admin backup --database-only /var/lib/opensandbox/upgrades/from-1.0.0-NOW.sqlite`,
    `dpkg --install ${host.file}`,
  ]);
});

test("when the new version does not serve, the error has the end of its log and the way back", async () => {
  await using host = await FakeInstallation.make({ service: "opensandbox.service", crashes: true });
  await assert.rejects(host.upgrade(), (error: Error) => {
    const [first, ...further] = error.message.split("\n");
    assert.match(first ?? "", /^version 2\.0\.0 does not serve: the server ended 3 times in a row/);
    assert.equal(further[0], "the disk is full");
    const data = "/var/lib/opensandbox";
    assert.equal(
      further[1]?.replace(/\d{4}-\d\d-\d\dT[\d-]+Z/, "NOW"),
      `To return to version 1.0.0: 'systemctl stop opensandbox.service', install its package, 'rm -f ${data}/opensandbox.sqlite-wal ${data}/opensandbox.sqlite-shm && cp ${data}/upgrades/from-1.0.0-NOW.sqlite ${data}/opensandbox.sqlite', 'systemctl start opensandbox.service'`,
    );
    return true;
  });
});

test("on a host that was set up, the new version runs its set-up", async () => {
  await using host = await FakeInstallation.make({ files: { "/etc/opensandbox/setup.json": record } });
  await host.upgrade();
  assert.deepEqual(host.ran.slice(-2), [`dpkg --install ${host.file}`, `${debianRoot}/opensandbox host setup`]);
});

test("the settings of the service say where the data is", async () => {
  const settings = "# where\nOPENSANDBOX_DATA_DIR=/data\nOPENSANDBOX_PORT=80\n";
  await using host = await FakeInstallation.make({
    files: { "/etc/opensandbox/server.env": settings, "/data/opensandbox.sqlite": "rows" },
  });
  assert.match((await host.upgrade()).copy ?? "", /^\/data\/upgrades\//);
  assert.ok(host.ran[1]?.startsWith("env OPENSANDBOX_DATA_DIR=/data OPENSANDBOX_PORT=80 "), host.ran.join("\n"));
});

suite("an upgrade that is refused changes nothing", () => {
  async function refused(facts: Facts, says: RegExp, sha256?: string): Promise<void> {
    await using host = await FakeInstallation.make(facts);
    await assert.rejects(host.upgrade(host.file, sha256), says);
    assert.deepEqual(
      host.ran.filter((line) => !line.startsWith("dpkg-deb --extract")),
      [],
    );
    const left = await readdir("/var/tmp");
    assert.ok(!left.some((name) => name.startsWith(".opensandbox-upgrade-")), left.join(" "));
  }

  test("the new version cannot restore a snapshot that this version can restore", async () => {
    const problems = { now: ["sn-damaged"], next: ["sn-damaged", "sn-1"] };
    await refused(
      { problems },
      /^SandboxError: version 2\.0\.0 cannot restore 1 snapshots of this host: sn-1 \(unknown/,
    );
  });

  test("the new version does not know the database", async () => {
    await refused(
      { databaseProblem: "the database belongs to a newer version" },
      /cannot use the database of this host: the database belongs/,
    );
  });

  test("the package has another hash", async () => {
    await refused({}, /is not the expected package: its SHA-256 is/, "0".repeat(64));
  });

  test("the program is a checkout", async () => {
    await refused({ debian: false }, /was installed neither as a Debian package nor by install\.sh/);
  });
});

test("an archive on a host with the Debian package is refused", async () => {
  await using host = await FakeInstallation.make();
  const archive = join(host.directory, "a.tar.gz");
  await writeFile(archive, "");
  await assert.rejects(host.upgrade(archive), /this host has a Debian package, so an upgrade needs a file \*\.deb/);
});

test("the hash of a URL comes from the list beside it, and without one nothing is fetched", async () => {
  const directory = await mkdtemp(join(tmpdir(), "osb-fetch-"));
  const content = "a package";
  const hash = createHash("sha256").update(content).digest("hex");
  const asked: string[] = [];
  const server = createServer(({ url = "" }, response) => {
    asked.push(url);
    if (url === "/with/SHA256SUMS") response.end(`${"0".repeat(64)}  other.deb\n${hash}  a.deb\n`);
    else if (url === "/wrong/SHA256SUMS") response.end(`${"0".repeat(64)}  a.deb\n`);
    else if (url.endsWith("/a.deb")) response.end(content);
    else response.writeHead(404).end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const fetched = async (path: string) =>
    await fetchPackage({ from: `${base}${path}`, sha256: undefined, directory }, never);
  try {
    assert.deepEqual(await fetched("/with/a.deb"), { file: join(directory, "a.deb"), sha256: hash });
    await assert.rejects(fetched("/wrong/a.deb"), /is not the expected package/);
    asked.length = 0;
    await assert.rejects(fetched("/without/a.deb"), /SHA256SUMS: the server answered 404/);
    await assert.rejects(fetched("/with/b.deb"), /has no hash of b\.deb: give it with --sha256/);
    assert.deepEqual(asked, ["/without/SHA256SUMS", "/with/SHA256SUMS"]);
  } finally {
    server.close();
    await rm(directory, { recursive: true });
  }
});

test("an archive gets a directory of its own, and the command then starts the new version", async () => {
  await using host = await FakeInstallation.make({ debian: false });
  const command = join(host.directory, "usr/local/bin/osb");
  await mkdir(dirname(command), { recursive: true });
  await symlink("/opt/opensandbox/1.0.0/opensandbox", command);
  await host.upgrade(host.file, undefined, "/opt/opensandbox/1.0.0");
  const hash = createHash("sha256").update("a package").digest("hex").slice(0, 12);
  const target = `/opt/opensandbox/2.0.0-${hash}`;
  assert.deepEqual(host.ran.slice(-2), [
    `mv --no-target-directory WORK/content ${target}.unfinished`,
    `mv --no-target-directory ${target}.unfinished ${target}`,
  ]);
  assert.equal(await readlink(command), `${target}/opensandbox`);
});
