import assert from "node:assert/strict";
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { join } from "node:path";
import { once } from "node:events";
import { within } from "@opensandbox/wire/testing/eventually.ts";

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface Api {
  readonly url: string;
  readonly apiKey: string;
}

/** Why tests of OpenSSH are skipped. False: its programs are here. */
export const withoutSsh = spawnSync("ssh", ["-V"]).error === undefined ? false : "openssh-client is not installed";

/** How long a program of OpenSSH may take on a crowded host. */
const finishWithinMs = 120_000;

/** The programs of OpenSSH on this host, set up for the gateway of one server under the name `gateway`. */
export class SshClient {
  readonly #directory: string;
  readonly #api: Api;
  readonly #config: string;
  readonly #key: string;

  private constructor(directory: string, api: Api) {
    this.#directory = directory;
    this.#api = api;
    this.#config = join(directory, "config");
    this.#key = join(directory, "first");
  }

  /** Makes a key and adds it to the server. */
  static async create(directory: string, api: Api): Promise<SshClient> {
    const client = new SshClient(directory, api);
    const gateway = (await client.call("GET", "/api/ssh")) as { enabled: boolean; port: number; hostKey: string };
    assert.equal(gateway.enabled, true);
    await writeFile(join(directory, "known_hosts"), `[127.0.0.1]:${gateway.port} ${gateway.hostKey}\n`);
    await writeFile(
      client.#config,
      `Host gateway\n HostName 127.0.0.1\n Port ${gateway.port}\n UserKnownHostsFile ${directory}/known_hosts\n` +
        " StrictHostKeyChecking yes\n IdentitiesOnly yes\n IdentityAgent none\n BatchMode yes\n LogLevel ERROR\n",
    );
    await client.newKey("first", ["-t", "ed25519"]);
    await client.addKey(client.#key);
    return client;
  }

  async call(method: string, path: string, body?: object): Promise<unknown> {
    const response = await fetch(`${this.#api.url}${path}`, {
      method,
      headers: { "x-api-key": this.#api.apiKey },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(finishWithinMs),
    });
    const reply = await response.text();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${reply}`);
    return reply === "" ? undefined : (JSON.parse(reply) as unknown);
  }

  /** Makes a key with ssh-keygen. Returns the path of its private half. */
  async newKey(name: string, kind: readonly string[]): Promise<string> {
    const file = join(this.#directory, name);
    await this.ok("ssh-keygen", ["-q", "-N", "", "-f", file, ...kind]);
    return file;
  }

  async addKey(file: string): Promise<string> {
    const publicKey = await readFile(`${file}.pub`, "utf8");
    const { id } = (await this.call("POST", "/api/ssh-keys", { publicKey })) as { id: string };
    return id;
  }

  /** Starts ssh. */
  start(args: readonly string[], key = this.#key): ChildProcessWithoutNullStreams {
    return spawn("ssh", ["-F", this.#config, "-i", key, ...args], { cwd: this.#directory });
  }

  /** Runs ssh to its end. */
  async run(args: readonly string[], input: string, key?: string): Promise<Finished> {
    return await finish(this.start(args, key), input);
  }

  /** Runs another program of OpenSSH, which must succeed. */
  async ok(program: "scp" | "sftp" | "ssh-keygen", args: readonly string[], input = ""): Promise<Finished> {
    const own = program === "ssh-keygen" ? [] : ["-F", this.#config, "-i", this.#key];
    const finished = await finish(spawn(program, [...own, ...args], { cwd: this.#directory }), input);
    assert.equal(finished.code, 0, `${program}: ${finished.stderr}${finished.stdout}`);
    return finished;
  }
}

async function finish(child: ChildProcessWithoutNullStreams, input: string): Promise<Finished> {
  // A command that reads no input ends the pipe.
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  const results = Promise.all([once(child, "close"), text(child.stdout), text(child.stderr)]);
  const [[code], stdout, stderr] = await within(`${child.spawnfile} ends`, results, finishWithinMs);
  return { code: code as number | null, stdout, stderr };
}
