import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opensandbox/sdk";
import { listImages, readConfig } from "@opensandbox/server";
import { startWorld, type World } from "./world.ts";

const images = await listImages(readConfig(process.env));
// Its packages take minutes to fetch, so no run of all tests builds it.
const skip = images.some(({ name, built }) => name === "docker" && built)
  ? false
  : "the image docker is not built: ./opensandbox image build docker";

/** Emulated and on a crowded host, the first machine takes minutes, and so does a container. */
const createTimeoutMs = 900_000;
const commandSeconds = 600;

/** Files of the sandbox's own shell make an image, since a test reaches no registry. */
const importBase = `
  until docker version >/dev/null 2>&1; do sleep 2; done
  tar -C / -ch bin/sh bin/cat bin/sleep lib64/ld-linux-x86-64.so.2 lib/x86_64-linux-gnu/libc.so.6 |
    docker import - base >/dev/null`;

suite("Docker in a sandbox", { skip }, () => {
  let world: World;
  let sandbox: Sandbox;

  before(async () => {
    world = await startWorld();
    const signal = AbortSignal.timeout(createTimeoutMs);
    const wanted = { url: world.url, apiKey: world.apiKey, image: "docker", memoryMib: 2048 };
    sandbox = await Sandbox.create({ ...wanted, signal });
    await shell(sandbox, importBase);
  });
  after(async () => {
    await world?.[Symbol.asyncDispose]();
  });

  /** Runs a script as the user of the sandbox. @returns what it prints */
  async function shell({ exec }: Sandbox, script: string): Promise<string> {
    const { stdout, stderr, exitCode } = await exec.run(["bash", "-ec", script], { timeout: commandSeconds });
    assert.equal(exitCode, 0, `${stdout}\n${stderr}`);
    return stdout.trim();
  }

  test("a container continues after a hibernation, and a fork has one of its own", async () => {
    await shell(sandbox, `docker run --detach --name count base sh -c 'echo kept >/file; exec sleep 100000'`);
    await sandbox.hibernate();
    await sandbox.wake();
    const state = "docker inspect --format '{{.State.Running}} {{.State.Pid}}' count";
    const before = await shell(sandbox, `${state}; docker exec count cat /file`);
    assert.match(before, /^true \d+\nkept$/);
    const fork = await sandbox.fork();
    assert.equal(await shell(fork, `${state}; docker exec count cat /file`), before);
    await shell(fork, "docker rm --force count");
    await fork.kill();
    assert.equal(await shell(sandbox, `${state}; docker exec count cat /file`), before);
  });

  test("a Dockerfile is built, and compose runs its image", async () => {
    const text = await shell(
      sandbox,
      `mkdir -p /tmp/app
      cd /tmp/app
      printf 'FROM base\\nRUN echo built >/built\\nCMD ["cat", "/built"]\\n' >Dockerfile
      printf 'services:\\n  web:\\n    build: .\\n    command: sleep 100000\\n' >compose.yaml
      docker build --quiet --tag built . >/dev/null
      docker run --rm built
      docker compose up --detach --quiet-pull 2>/dev/null
      docker compose exec --no-TTY web cat /built
      docker compose down 2>/dev/null
      docker ps --all --quiet --filter name=app`,
    );
    assert.equal(text, "built\nbuilt");
  });
});
