import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { AzureForAz } from "./azure-for-az.ts";

// To run this test: python3 -m venv DIR && DIR/bin/pip install azure-cli && PATH=DIR/bin:$PATH ./test FILE

const script = resolve(import.meta.dirname, "../../deploy/azure/deploy-azure-dev.sh");
const installed = spawnSync("sh", ["-c", "command -v az"]).status === 0;

/** `az` takes seconds for each of some twenty calls, and more beside other work. */
const timeout = 20 * 60_000;

const everything = [
  "networkInterfaces/opensandbox-dev-vmVMNic",
  "networkSecurityGroups/opensandbox-dev-nsg",
  "publicIPAddresses/opensandbox-dev-ip",
  "resourceGroups/opensandbox-dev",
  "virtualMachines/opensandbox-dev-vm",
  "virtualNetworks/opensandbox-dev-vnet",
];

test(
  "the script makes, shows and deletes a host with the real az",
  { skip: !installed && "az is not installed", timeout },
  async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "osb-az-"));
    t.after(() => rm(directory, { recursive: true }));
    const [key, cert] = [join(directory, "key.pem"), join(directory, "cert.pem")];
    const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"];
    const newKey = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    assert.equal(spawnSync("openssl", ["req", ...newKey, ...subject, "-keyout", key, "-out", cert]).status, 0);
    await using azure = await AzureForAz.start(key, cert);
    await writeFile(join(directory, "key.pub"), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0 test\n");
    await writeFile(join(directory, "ssh"), fakeSsh(directory));
    await chmod(join(directory, "ssh"), 0o755);
    const env = {
      ...{ HOME: directory, PATH: `${directory}${delimiter}${process.env.PATH ?? ""}` },
      ...{
        AZURE_CONFIG_DIR: join(directory, "azure"),
        AZURE_CORE_COLLECT_TELEMETRY: "false",
        REQUESTS_CA_BUNDLE: cert,
      },
      ...{ IDENTITY_ENDPOINT: `${azure.endpoint}/msi/token`, IDENTITY_HEADER: "test" },
      ...{ SSH_FROM: "192.0.2.1", SSH_KEY: join(directory, "key.pub") },
    };
    const run = async (argv: readonly [string, ...string[]], input = ""): Promise<string> => {
      const [file, ...args] = argv;
      const child = spawn(file, args, { env, stdio: ["pipe", "pipe", "pipe"] });
      child.stdin.end(input);
      const [stdout, stderr, [code]] = await Promise.all([
        text(child.stdout),
        text(child.stderr),
        once(child, "close"),
      ]);
      assert.equal(code, 0, `${argv.join(" ")}\n${stdout}\n${stderr}`);
      return stdout;
    };
    await run(["az", "cloud", "register", "--name", "fake", "--endpoint-resource-manager", azure.endpoint]);
    await run(["az", "cloud", "set", "--name", "fake"]);
    await run(["az", "login", "--identity"]);

    assert.match(await run([script, "create"]), /^Linux sandbox$/m);
    assert.deepEqual(azure.names(), everything);
    for (const { type, tags } of azure.resources.values()) {
      if (!/deployments$/i.test(type)) assert.equal(tags["opensandbox"], "opensandbox-dev", type);
    }
    const machine = JSON.stringify([...azure.resources.values()].find(({ type }) => /virtualMachines$/i.test(type)));
    assert.match(machine, /"vmSize":"Standard_D48as_v6"/);
    // Trusted Launch, the default of az, has no nested virtualization.
    assert.match(machine, /"securityProfile":\{"securityType":"Standard"\}/);
    const log = await readFile(join(directory, "ssh.log"), "utf8");
    assert.match(log, /cloud-init status --wait[^]*setup-azure-host\.sh[^]*osb run -- uname -a/);
    const made = azure.names();
    await run([script, "create"]);
    assert.deepEqual(azure.names(), made);

    assert.match(
      await run([script, "status"]),
      /opensandbox-dev-vm +Standard_D48as_v6 +VM running +203\.0\.113\.7\nservice: active/,
    );
    await run([script, "destroy"], "opensandbox-dev\n");
    assert.deepEqual(azure.names(), []);
  },
);

/** Records the remote command, and reads what it is sent. */
function fakeSsh(directory: string): string {
  return `#!/bin/sh
for last; do :; done
printf '%s\\n' "$*" >>"${directory}/ssh.log"
case $last in
  *'cat > '*) cat >/dev/null ;;
  *'run -- uname'*) echo Linux sandbox ;;
  *api-key*) echo osb_key ;;
  *is-active*) echo active ;;
esac
`;
}
