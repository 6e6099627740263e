import assert from "node:assert/strict";
import { once } from "node:events";
import { cp, mkdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { dirname, join } from "node:path";
import { suite, test } from "node:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { runForTest } from "../../../testing/test-host.ts";
import { type Argv, System } from "../../host/system.ts";
import { bootHost, type ServerBoot, type WorkerBoot } from "./boot-host.ts";
import { readSecret } from "./vault-client.ts";

/** A host that was started from the image of a fleet. */
class BootingHost implements AsyncDisposable {
  readonly root: string;
  readonly commands: string[] = [];

  constructor(root: string) {
    this.root = root;
  }

  static async make(): Promise<BootingHost> {
    const host = new BootingHost(await mkdtemp(join(tmpdir(), "osb-boot-")));
    await host.write("/opt/opensandbox/prepared/images/rootfs-1/rootfs.img", "image");
    return host;
  }

  async boot(boot: WorkerBoot | ServerBoot): Promise<void> {
    const system = new System({ root: this.root, runner: (argv) => this.#run(argv) });
    const readSecret = async (name: string): Promise<string> => await Promise.resolve(`value of ${name}`);
    await bootHost({ system, launcher: "/opt/osb", boot, readSecret, metadata: "http://169.254.169.254" });
  }

  async read(path: string): Promise<string> {
    return await readFile(join(this.root, path), "utf8");
  }

  async write(path: string, content: string): Promise<void> {
    await mkdir(dirname(join(this.root, path)), { recursive: true });
    await writeFile(join(this.root, path), content);
  }

  async modeOf(path: string): Promise<number> {
    return (await stat(join(this.root, path))).mode & 0o777;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.root, { recursive: true });
  }

  async #run([program, ...args]: Argv): Promise<{ code: number; stdout: string; stderr: string }> {
    const paths = args.filter((word) => word.startsWith("/")).map((path) => join(this.root, path));
    const [from = "", to = ""] = paths;
    if (program === "mkdir") await mkdir(from, { recursive: true });
    else if (program === "cp") await cp(from, to, { recursive: true });
    else if (program === "mv") await rename(from, to);
    else this.commands.push([program, ...args].join(" "));
    return { code: 0, stdout: "", stderr: "" };
  }
}

const worker: WorkerBoot = {
  role: "worker",
  server: "https://10.100.1.10:8443",
  objectStore: "azblob://snapshots/?account=osbaccount",
};
const server: ServerBoot = {
  role: "server",
  database: "db.postgres.database.azure.com",
  domain: "sandboxes.example.com",
  hasTls: true,
  scale: ["--name", "lab", "--min-workers", "2", "--max-workers", "9"],
};

suite("the first boot of a host", () => {
  test("of a worker stores token and settings before the service starts, and brings the images of sandboxes", async () => {
    await using host = await BootingHost.make();
    await host.boot(worker);
    assert.deepEqual(host.commands, ["/opt/osb host setup --prepare", "/opt/osb host setup --role worker"]);
    assert.equal(await host.read("/var/lib/opensandbox/fleet-token"), "value of fleet-token\n");
    assert.equal(await host.read("/var/lib/opensandbox/images/rootfs-1/rootfs.img"), "image");
    assert.deepEqual((await host.read("/etc/opensandbox/server.env")).trim().split("\n"), [
      "OPENSANDBOX_FLEET_URL=https://10.100.1.10:8443",
      "OPENSANDBOX_OBJECT_STORE=azblob://snapshots/?account=osbaccount",
      "OPENSANDBOX_OBJECT_STORE_KEY=value of object-store-key",
      "OPENSANDBOX_SCHEDULED_EVENTS=http://169.254.169.254",
    ]);
    for (const file of ["/var/lib/opensandbox/fleet-token", "/etc/opensandbox/server.env"]) {
      assert.equal(await host.modeOf(file), 0o600, file);
    }
  });

  test("of a server stores the database and the certificate, and starts the autoscaling", async () => {
    await using host = await BootingHost.make();
    await host.boot(server);
    const tls = "--tls-cert /var/lib/opensandbox/tls/chain.pem --tls-key /var/lib/opensandbox/tls/key.pem";
    assert.deepEqual(host.commands, [
      "/opt/osb host setup --prepare",
      `/opt/osb host setup --role server --domain sandboxes.example.com --listen 0.0.0.0 --port 443 ${tls}`,
      "systemctl daemon-reload",
      "systemctl enable --now opensandbox-scale.timer",
    ]);
    assert.equal(await host.modeOf("/var/lib/opensandbox/tls/key.pem"), 0o600);
    assert.match(
      await host.read("/etc/opensandbox/server.env"),
      /^OPENSANDBOX_DATABASE_URL=postgres:\/\/opensandbox:value%20of%20database-password@db\.postgres\.database\.azure\.com\/opensandbox\?sslmode=require$/m,
    );
    assert.match(
      await host.read("/etc/systemd/system/opensandbox-scale.service"),
      /^ExecStart=\/opt\/osb azure fleet scale --name lab --min-workers 2 --max-workers 9$/m,
    );
  });

  test("is repeated without a second copy of images, and keeps the operator's settings", async () => {
    await using host = await BootingHost.make();
    await host.boot(worker);
    await host.write("/var/lib/opensandbox/images/rootfs-1/rootfs.img", "newer");
    const settings = await host.read("/etc/opensandbox/server.env");
    await host.write("/etc/opensandbox/server.env", `OPENSANDBOX_READY_MACHINES=5\n${settings}`);
    await host.boot({ ...worker, server: "https://10.100.1.11:8443" });
    assert.equal(await host.read("/var/lib/opensandbox/images/rootfs-1/rootfs.img"), "newer");
    const repeated = (await host.read("/etc/opensandbox/server.env")).trim().split("\n");
    assert.equal(repeated.length, 5);
    assert.ok(repeated.includes("OPENSANDBOX_READY_MACHINES=5"));
    assert.ok(repeated.includes("OPENSANDBOX_FLEET_URL=https://10.100.1.11:8443"));
  });
});

test("a secret is read when it is there and the host may read it, and a missing one ends the wait", async (t) => {
  const replies = [403, 404, 503, 200];
  const asked: string[] = [];
  const vault = createServer((request, response) => {
    asked.push(`${request.headers.authorization} ${request.url}`);
    const status = replies.shift() ?? 404;
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(status === 200 ? { value: "secret" } : { error: { code: "NotYet" } }));
  });
  vault.listen(0, "127.0.0.1");
  await once(vault, "listening");
  t.after(() => vault.close());
  const url = `http://127.0.0.1:${(vault.address() as AddressInfo).port}`;
  const options = { url, token: async () => await Promise.resolve("token"), pauseMs: 1 };
  assert.equal(await readSecret(options, "master-key", t.signal), "secret");
  assert.deepEqual([asked.length, asked[0]], [4, "Bearer token /secrets/master-key?api-version=7.4"]);
  await assert.rejects(
    readSecret({ ...options, timeoutMs: 50 }, "tls-key", t.signal),
    /cannot read the secret tls-key of http:.*: HTTP 404 NotYet/,
  );
});

for (const [words, says] of [
  ["--role combined --vault osbvault", "--role must be server or worker"],
  ["--role worker", "--vault takes the name of a key vault"],
  ["--role worker --vault osbvault", "a worker needs --server and --object-store"],
  ["--role server --vault osbvault", "a server needs --database"],
] as const) {
  test(`fleet boot ${words}: refused before anything is read`, async () => {
    const { code, stderr } = await runForTest(["azure", "fleet", "boot", ...words.split(" ")]);
    assert.equal(code, 2);
    assert.ok(stderr.startsWith(`osb: ${says}`), stderr);
  });
}
