import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { request as startRequest } from "node:http";
import { homedir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { after, before, suite, test } from "node:test";
import { promisify } from "node:util";
import { Sandbox } from "@opencomputer/sdk";
import { readConfig } from "@opensandbox/server";
import { answerOf } from "./answer-of.ts";
import { asUser, type SpawnedServer, spawnServer } from "./spawn-server.ts";
import { startWorld } from "./world.ts";

const repository = join(import.meta.dirname, "../..");
const root = process.getuid?.() === 0;
/** The user of the server: without root, the user of this test. */
const user = root ? 65_534 : undefined;

const skip = (await mayRead(repository)) ? false : "another user cannot read this checkout";

// A server without root and one machine of it, through the published client.
suite("without root", { skip }, () => {
  const stack = new AsyncDisposableStack();
  let server: SpawnedServer;
  let sandbox: Sandbox;
  let created: Reply;

  before(async () => {
    // The first start builds the images, which every user reads.
    await (await startWorld({ OPENSANDBOX_NETWORK: "user" }))[Symbol.asyncDispose]();
    const { imagesDirectory } = readConfig(process.env);
    server = stack.use(
      await spawnServer({ env: { OPENSANDBOX_IMAGES_DIR: imagesDirectory, OPENSANDBOX_TEMPLATES_DIR: "" }, user }),
    );
    [, created] = await call("POST", "", { templateID: "minimal" });
    const { sandboxID = assert.fail(created.error) } = created;
    sandbox = await Sandbox.connect(sandboxID, { apiUrl: server.url, apiKey: server.apiKey });
  });
  after(() => stack.disposeAsync());

  interface Reply {
    readonly error?: string;
    readonly sandboxID?: string;
    readonly networkNotEnforced?: readonly string[];
    readonly notEnforced?: readonly string[];
    readonly restoredFrom?: string;
  }

  async function call(method: string, path: string, body?: object): Promise<readonly [status: number, reply: Reply]> {
    const response = await fetch(`${server.url}/api/sandboxes${path}`, {
      method,
      headers: { "X-API-Key": server.apiKey },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return [response.status, (await response.json()) as Reply];
  }

  async function run(command: string): Promise<string> {
    const { stdout, stderr } = await sandbox.commands.run(command, { timeout: 300 });
    return (stdout + stderr).trim();
  }

  async function preview(): Promise<string> {
    const headers = { host: sandbox.getPreviewDomain(8000) };
    const request = startRequest(server.url, { headers, agent: false }).end();
    const response = await answerOf(request);
    return `${response.statusCode} ${await text(response)}`;
  }

  const network = (): string => `/${sandbox.sandboxId}/network`;

  test("commands and files work as they do with root", async () => {
    assert.equal(await run("id -un; sudo id -un"), "sandbox\nroot");
    await sandbox.files.write("greeting", "hello");
    assert.equal(await run("cat greeting"), "hello");
    assert.equal(await sandbox.files.read("greeting"), "hello");
  });

  test("the create, the sandbox's network and doctor report the limits of user mode", async () => {
    const { networkNotEnforced = [] } = created;
    assert.ok(networkNotEnforced.some((line) => line.includes("private addresses and this host can be reached")));
    assert.deepEqual((await call("GET", network()))[1].notEnforced, networkNotEnforced);
    const doctor = [process.execPath, join(repository, "packages/cli/src/main.ts"), "doctor"] as const;
    const [file, ...args] = [...(user === undefined ? [] : asUser(user)), ...doctor];
    const output = await promisify(execFile)(file ?? process.execPath, args, {
      env: { PATH: process.env["PATH"], HOME: homedir() },
    }).catch(
      // Other findings about this host do not matter here.
      (error: { stdout: string }) => error,
    );
    for (const line of networkNotEnforced) assert.ok(output.stdout.includes(line), `${line}: ${output.stdout}`);
  });

  test("a policy that would not hold is refused, at create and later", async () => {
    const egress = { allow: ["example.com"] };
    for (const [status, { error = "" }] of [
      await call("POST", "", { templateID: "minimal", egress }),
      await call("PUT", network(), { egress }),
    ]) {
      assert.equal(status, 501);
      assert.match(error, /^this host cannot enforce egress rules: without root/);
    }
    const [status, { error = "" }] = await call("PUT", network(), { networkEnabled: false });
    assert.equal(status, 501);
    assert.match(error, /^this host cannot change a network policy: without root/);
  });

  test("the internet is reachable by name", async () => {
    assert.match(await run("getent ahostsv4 deb.debian.org"), /^\d+\.\d+\.\d+\.\d+/);
    assert.ok(Number(await run("sudo apt-get update 2>&1 | grep -cE '^(Hit|Get):'")) > 0);
  });

  test("a server has a preview, which wakes the machine with its memory intact", async () => {
    await run("echo from inside > index.html; setsid python3 -m http.server 8000 > /dev/null 2>&1 & echo");
    await run("until curl -sf http://127.0.0.1:8000/ > /dev/null; do sleep 0.2; done");
    assert.equal(await preview(), "200 from inside\n");
    await sandbox.hibernate();
    assert.equal((await call("PUT", network(), { egress: { allow: [] } }))[0], 501);
    assert.equal(await preview(), "200 from inside\n");
    assert.equal((await call("GET", `/${sandbox.sandboxId}`))[1].restoredFrom, "memory");
    assert.match(await run("getent ahostsv4 deb.debian.org"), /^\d+\.\d+\.\d+\.\d+/);
  });

  test("a network switched off during hibernation stays off after the wake, and the files are there", async () => {
    await sandbox.hibernate();
    assert.equal((await call("PUT", network(), { networkEnabled: false }))[0], 200);
    await sandbox.wake();
    // Without the network device it is a different machine, so its disks are booted.
    assert.equal((await call("GET", `/${sandbox.sandboxId}`))[1].restoredFrom, "disk");
    assert.equal(await run("ls /sys/class/net; cat greeting"), "lo\nhello");
    await sandbox.kill();
  });
});

/** Whether that user may read the files below the directory. */
async function mayRead(directory: string): Promise<boolean> {
  if (user === undefined) return true;
  const [file, ...args] = [...asUser(user), "test", "-r", join(directory, "package.json")] as const;
  return await promisify(execFile)(file, args).then(
    () => true,
    () => false,
  );
}
