import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { createInterface } from "node:readline";
import { suite, test } from "node:test";

/** One finished test of the other process. */
export interface FinishedTest {
  readonly names: readonly string[];
  readonly milliseconds: number;
  readonly error?: string;
  /** The reason why it was skipped. */
  readonly skip?: string;
}

const marker = "OPENSANDBOX_TEST_OWN_HOST";

/** The resolver configuration of such a host. */
export const ownResolvConf = "/etc/resolv.conf";

/**
 * Runs the tests of `define` in their own network namespace, with their own `/run/netns`, `/run/opensandbox` and
 * `/etc/resolv.conf`, so that they and this host do not affect each other. They run in another process; this one reports
 * their results. Needs root.
 */
export function inOwnHost(file: string, define: () => void): void {
  if (process.env[marker] === "1") {
    define();
    return;
  }
  const skipAll = process.getuid?.() === 0 ? false : "network namespaces need root";
  suite(`in a host of its own: ${basename(file)}`, { skip: skipAll }, async () => {
    // The names of the tests are known after they have run; a suite may define tests asynchronously.
    for (const { names, milliseconds, error, skip } of skipAll === false ? await runElsewhere(file) : []) {
      test(names.join(" > "), { skip: skip ?? false }, (t) => {
        t.diagnostic(`took ${milliseconds} ms`);
        if (error !== undefined) throw new Error(error);
      });
    }
  });
}

async function runElsewhere(file: string): Promise<readonly FinishedTest[]> {
  const directory = await mkdtemp(join(tmpdir(), "osb-own-host-"));
  try {
    const resolvConf = join(directory, "resolv.conf");
    await writeFile(resolvConf, "nameserver 127.0.0.53\n");
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const child = spawn(
      "unshare",
      [
        ...["--net", "--mount", "--propagation", "private", "sh", "-ec", prepare, resolvConf],
        ...[process.execPath, "--disable-warning=ExperimentalWarning", "--test", "--test-isolation=none"],
        ...["--test-timeout=300000", `--test-reporter=${join(import.meta.dirname, "own-host-reporter.ts")}`, file],
      ],
      { stdio: ["ignore", "pipe", "inherit"], env: { ...env, [marker]: "1" } },
    );
    const finished: FinishedTest[] = [];
    const exit = once(child, "exit");
    for await (const line of createInterface({ input: child.stdout })) {
      if (line.startsWith("{")) finished.push(JSON.parse(line) as FinishedTest);
      else process.stderr.write(`${line}\n`);
    }
    const [code] = (await exit) as [number | null];
    if (finished.length === 0 || (code !== 0 && finished.every(({ error }) => error === undefined))) {
      finished.push({
        names: ["the tests run to their end"],
        milliseconds: 0,
        error: `their process exited with ${code}`,
      });
    }
    return finished;
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** `$0` is the resolver configuration, `$@` the command. */
const prepare = `
mkdir -p /run/netns /run/opensandbox
mount -t tmpfs tmpfs /run/netns
mount -t tmpfs tmpfs /run/opensandbox
mount -t sysfs sysfs /sys
mount --bind "$0" ${ownResolvConf}
ip link set lo up
exec "$@"
`;
