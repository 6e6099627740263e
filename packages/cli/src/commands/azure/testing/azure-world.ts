import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { runForTest, type TestRun } from "../../../testing/test-host.ts";
import { FakeResourceManager, subscription } from "./fake-resource-manager.ts";

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0 test";

/** A home directory, and programs `az` and `ssh` of the test. */
export class World implements AsyncDisposable {
  readonly directory: string;
  readonly azure: FakeResourceManager;

  private constructor(directory: string, azure: FakeResourceManager) {
    this.directory = directory;
    this.azure = azure;
  }

  static async make(options: Parameters<typeof FakeResourceManager.start>[0] = {}): Promise<World> {
    const directory = await mkdtemp(join(tmpdir(), "osb-azure-"));
    const world = new World(directory, await FakeResourceManager.start(options));
    await writeFile(join(directory, "key.pub"), `${key}\n`);
    const token = { accessToken: "token-of-the-test", expires_on: 4_000_000_000, subscription };
    await world.program("az", `echo '${JSON.stringify(token)}'`);
    // Records the remote command, and keeps what it receives.
    await world.program(
      "ssh",
      `for last; do :; done
printf '%s\\n' "$*" >>"${directory}/ssh.log"
case $last in
  *'cat > '*) cat >"${directory}/archive.tar.gz" ;;
  *'run -- uname'*) echo Linux sandbox ;;
  *api-key*) echo osb_key ;;
  *is-active*) echo active ;;
  *user-data.txt*) cat "${directory}/user-data" ;;
  *'admin workers'*) [ -e "${directory}/workers.mjs" ] && exec ${process.execPath} "${directory}/workers.mjs"; echo '[{"id": "wk-1", "state": "up"}]' ;;
esac`,
    );
    return world;
  }

  /** Makes the machines of a scale set the workers of the fleet. A drained worker has nothing left. */
  async joinMachines(set: string): Promise<void> {
    const machines = `${this.azure.endpoint}${set}/virtualMachines?api-version=1`;
    const script = `
import { readFile } from "node:fs/promises";
const log = await readFile(${JSON.stringify(join(this.directory, "ssh.log"))}, "utf8");
const response = await fetch(${JSON.stringify(machines)}, { headers: { authorization: "Bearer token-of-the-test" } });
const workers = (await response.json()).value.map(({ properties }) => {
  const host = properties.osProfile.computerName;
  const draining = log.includes(\`admin drain wk-\${host} \`);
  const left = draining ? { left: { sandboxes: 0, snapshots: 0 } } : {};
  return { id: \`wk-\${host}\`, url: \`https://\${host}:8443\`, state: "up", draining, ...left };
});
console.log(JSON.stringify(workers));
`;
    await writeFile(join(this.directory, "workers.mjs"), script);
  }

  async program(name: string, text: string): Promise<void> {
    await writeFile(join(this.directory, name), `#!/bin/sh\n${text}\n`);
    await chmod(join(this.directory, name), 0o755);
  }

  async osb(words: readonly string[], env: Record<string, string> = {}, stdin?: string): Promise<TestRun> {
    return await runForTest(["azure", ...words], {
      env: {
        PATH: `${this.directory}${delimiter}${process.env.PATH ?? ""}`,
        OPENSANDBOX_AZURE_ENDPOINT: this.azure.endpoint,
        ...env,
      },
      ...(stdin === undefined ? {} : { stdin }),
    });
  }

  /** Creates the resources alone. */
  async create(...words: readonly string[]): Promise<TestRun> {
    return await this.createWhole("--no-deploy", ...words);
  }

  async createWhole(...words: readonly string[]): Promise<TestRun> {
    return await this.osb(["create", ...this.operator, ...words]);
  }

  /** Options that name the operator. */
  get operator(): readonly string[] {
    return ["--ssh-from", "192.0.2.1", "--ssh-key", join(this.directory, "key.pub")];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.azure[Symbol.asyncDispose]();
    await rm(this.directory, { recursive: true });
  }
}
