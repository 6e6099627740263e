// Runs test files on a host that has KVM. Usage: run-in-kvm-host.ts RESULTS MINUTES FILE...
// On a host without KVM, QEMU emulates one: its emulator implements AMD's virtualisation with nested paging, so a
// Debian in such a machine has a real /dev/kvm. The tests' output goes to standard output, and RESULTS gets a line for
// each test, in the format of tools/test-results.ts. An emulated host that has not ended after MINUTES is stopped.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join, relative, resolve } from "node:path";
import { createInterface } from "node:readline";
import { baseWorkspaceMib } from "../../packages/worker/src/machine/shape/template-shape.ts";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";
import { tryCreateKvmMachine } from "../../packages/worker/src/host/kernel/libc.ts";
import { findFirecracker } from "../../packages/worker/src/hypervisor/firecracker/examine-firecracker.ts";
import { processorFeature } from "../../packages/worker/src/hypervisor/kvm-access.ts";
import { provideAgentBundles } from "../../packages/worker/src/images/agent-bundle.ts";
import { makeExt4 } from "../../packages/worker/src/images/ext4.ts";
import { ImageStore } from "../../packages/worker/src/images/image-store.ts";
import { readConfig } from "../../packages/server/src/config.ts";
import type { TestResult } from "../test-results.ts";
import { type KvmHostImage, provideKvmHost } from "./build-kvm-host.ts";
import { type HostEnd, endOfHost } from "./end-of-host.ts";
import { finishedFiles } from "./finished-files.ts";

const repository = resolve(import.meta.dirname, "../..");

/** An emulated host boots in 10 s, and in 50 s on a host with six times as much work as processors. */
const bootTimeoutMs = 5 * 60_000;

/** Hosts that are started at most. An emulated host fails about once in an hour of tests. */
const maxAttempts = 3;

/** Memory of an emulated host in GiB, and of one for these files. */
const memoryGib = 5;
const memoryGibOf: Readonly<Record<string, number>> = {
  // Sixteen forks at once need 768 MiB of free memory each.
  "tests/torture/kvm.vm.test.ts": 16,
};

/** The first line of `start`, once the kernel and udev are up. */
const bootedLine = "kvm-host: booted";

/** The start of this program. Each of its own lines begins with the seconds since then. */
const since = performance.now();

/** Packages that only check or bundle the sources. */
const leftOut = ["@typescript", "typescript", "@oxlint", "@oxlint-tsgolint", "@oxfmt", "oxfmt", "knip", "@rolldown"];

const interrupted = new AbortController();
const [resultsFile = "", minutes = "", ...files] = process.argv.slice(2);
const timeoutMs = Number(minutes) * 60_000;
process.exitCode = await main();

async function main(): Promise<number> {
  if (files.length === 0 || !(timeoutMs > 0)) throw new Error("usage: run-in-kvm-host.ts RESULTS MINUTES FILE...");
  if (await hasKvm()) return await runHere();
  say("this host has no KVM: a host with KVM is emulated");
  const scratch = await mkdtemp(join(tmpdir(), "osb-kvm-host-"));
  process.once("SIGTERM", () => interrupted.abort());
  process.once("SIGINT", () => interrupted.abort());
  try {
    const { imagesDirectory } = readConfig(process.env);
    const progress = {
      onProgress: ({ step }: { readonly step: string }) => say(step),
      signal: interrupted.signal,
    };
    const host = await provideKvmHost(imagesDirectory, progress);
    const workDisk = await makeWorkDisk(scratch, imagesDirectory);
    return await runThere(host, workDisk, scratch);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function hasKvm(): Promise<boolean> {
  const cpuinfo = await readFile("/proc/cpuinfo", "utf8");
  return processorFeature(cpuinfo) !== undefined && tryCreateKvmMachine("/dev/kvm") === undefined;
}

async function runHere(): Promise<number> {
  const reporters = [
    ...["--test-reporter=spec", "--test-reporter-destination=stdout"],
    ...["--test-reporter=./tools/test-results.ts", `--test-reporter-destination=${resultsFile}`],
  ];
  const flags = ["--disable-warning=ExperimentalWarning", "--test", "--test-concurrency=1", ...reporters];
  const tests = spawn(process.execPath, [...flags, ...files], {
    cwd: repository,
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, OPENSANDBOX_ACCEL: "kvm" },
  });
  const [code] = (await once(tests, "exit")) as [number | null];
  return code ?? 1;
}

/**
 * One file system with the checkout, the images and room for data: machines hard-link their images, so these share one
 * disk.
 */
async function makeWorkDisk(scratch: string, imagesDirectory: string): Promise<string> {
  say("copying the checkout and the image minimal");
  const work = join(scratch, "work");
  await mkdir(join(work, "data/images"), { recursive: true });
  await mkdir(join(work, "tmp"));
  await copyTree(join(work, "tree"));
  for (const artifact of await neededArtifacts(imagesDirectory)) {
    await runCommand("copy an image", ["cp", "--archive", artifact, join(work, "data/images", basename(artifact))]);
  }
  await compile(work);
  await copyFirecracker(join(work, "bin"));
  await cp(join(import.meta.dirname, "start"), join(work, "start"));
  await writeFile(join(work, "environment"), testVariables());
  const disk = join(scratch, "work.ext4");
  await makeExt4({
    file: disk,
    sizeMib: 16_384,
    content: work,
    label: "work",
    uuid: "b3e7a0c4-2f61-4f0e-9a57-6d1c52b0e0a2",
    journalMib: 0,
  });
  await rm(work, { recursive: true });
  return disk;
}

async function copyTree(target: string): Promise<void> {
  const listed = await runCommand(
    "list the checkout",
    ["git", "-c", `safe.directory=${repository}`, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    { cwd: repository },
  );
  await mkdir(target);
  await runCommand(
    "copy the checkout",
    ["sh", "-c", 'tar --create --null --files-from=- --ignore-failed-read | tar --extract --directory="$0"', target],
    { cwd: repository, input: listed },
  );
  await runCommand(
    "copy the packages",
    [
      ...(["sh", "-c", 'tar --create "$@" node_modules | tar --extract --directory="$0"', target] as const),
      ...leftOut.map((name) => `--exclude=node_modules/${name}`),
    ],
    { cwd: repository },
  );
  // The launcher's mark of a finished `npm ci`: without a network the launcher could not repeat it.
  await cp(join(target, "package-lock.json"), join(target, "node_modules/.opensandbox-lock"));
}

/**
 * Fills Node's compile cache with the server, on this host: an emulated one strips types and compiles for a minute.
 * The cache names its files relative to itself, so it holds in the KVM host as well.
 */
async function compile(work: string): Promise<void> {
  const cache = { NODE_COMPILE_CACHE: join(work, "compiled"), NODE_COMPILE_CACHE_PORTABLE: "1" };
  const load = `for (const file of ["server", "worker", "control-plane"]) await import(\`./packages/\${file}/src/index.ts\`);`;
  const flags = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval"];
  await runCommand("compile the server", [process.execPath, ...flags, load], { cwd: join(work, "tree"), env: cache });
}

/** The variables of this process that change tests, as assignments of a shell. */
function testVariables(): string {
  return Object.entries(process.env)
    .filter(([name]) => /^OPENSANDBOX_TEST_\w+$/.test(name))
    .map(([name, value = ""]) => `export ${name}='${value.replaceAll("'", `'\\''`)}'\n`)
    .join("");
}

/** The KVM host runs the Firecracker of this host, where there is one. Without it, the tests of Firecracker are skipped. */
async function copyFirecracker(target: string): Promise<void> {
  await mkdir(target);
  const { firecrackerProgram } = readConfig(process.env);
  const program = await findFirecracker(firecrackerProgram);
  if (program === undefined) return say(`there is no ${firecrackerProgram} to copy: tests of Firecracker are skipped`);
  say(`copying ${program}`);
  await cp(program, join(target, "firecracker"), { dereference: true });
}

/** Directories of everything that a sandbox of the image minimal starts from. */
async function neededArtifacts(imagesDirectory: string): Promise<readonly string[]> {
  const images = new ImageStore({ imagesDirectory });
  const { rootfs, kernel, initramfs } = await images.provide("minimal");
  const bundles = await provideAgentBundles(imagesDirectory);
  const request = { nodeBinary: process.execPath, bundles, workspaceMib: baseWorkspaceMib };
  const { agentDisk, workspace } = await images.providePlatform(request);
  return [rootfs, kernel, initramfs, bundles.guestAgent, agentDisk, workspace].map(dirname);
}

/** Another host repeats the files that a failed host left unfinished. All hosts end within the same time. */
async function runThere(host: KvmHostImage, workDisk: string, scratch: string): Promise<number> {
  say(`starting the KVM host: it boots within ${bootTimeoutMs / 60_000} min and ends within ${minutes} min`);
  const running = AbortSignal.timeout(timeoutMs);
  const kept: string[] = [];
  let remaining: readonly string[] = files;
  for (let attempt = 1; ; attempt += 1) {
    const { booted, results, code, end } = await runOnce(host, workDisk, remaining, scratch, running);
    if (end === undefined) {
      await writeResults([...kept, ...results]);
      return code;
    }
    say(`${end.message}; its console:\n${end.excerpt}`);
    const finished = finishedFiles(results, remaining);
    const isHostFailure = end.cause !== "stopped" || !booted;
    if (isHostFailure && attempt < maxAttempts && !running.aborted && !interrupted.signal.aborted) {
      kept.push(...finished.results);
      // Every file may have ended before its host failed.
      remaining = finished.unfinished;
      if (remaining.length > 0) {
        say(
          `this is a failure of the emulated host, not of a test: attempt ${attempt + 1} of ${maxAttempts} runs ${remaining.join(", ")}`,
        );
        continue;
      }
      await writeResults(kept);
      return 0;
    }
    // Tests that ended before the host keep their results, and the end of the host is one more failure.
    const failure: TestResult = {
      name: end.message,
      file: relative(repository, import.meta.filename),
      suites: [],
      outcome: "failed",
      error: [`attempt ${attempt} of ${maxAttempts}; these files were not finished: ${finished.unfinished.join(", ")}`],
    };
    await writeResults([...kept, ...results, JSON.stringify(failure)]);
    return 1;
  }
}

async function writeResults(lines: readonly string[]): Promise<void> {
  await writeFile(resultsFile, lines.map((line) => `${line}\n`).join(""));
}

/** What a KVM host sent until it ended. `end` says why no `code` of the test runner came. */
interface HostRun {
  readonly booted: boolean;
  readonly results: readonly string[];
  readonly code: number;
  readonly end?: HostEnd;
}

async function runOnce(
  host: KvmHostImage,
  workDisk: string,
  remaining: readonly string[],
  scratch: string,
  running: AbortSignal,
): Promise<HostRun> {
  const serialResults = join(scratch, "results");
  const console = join(scratch, "console");
  const log = join(scratch, "log");
  const memory = Math.max(memoryGib, ...remaining.map((file) => memoryGibOf[file] ?? 0));
  const qemu = spawn(
    "setpriv",
    [
      ...["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"],
      ...["-machine", "q35,usb=off,vmport=off,graphics=off", "-no-reboot"],
      ...["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,+svm", "-smp", "2", "-m", `${memory}G`],
      ...["-kernel", host.kernel, "-initrd", host.initramfs],
      // A kernel that goes on after an oops holds its locks, and the tests wait for a host that has ended. Linux hands
      // parameters that it does not know to its first process as environment variables.
      ...["-append", `console=ttyS0 oops=panic panic=-1 mitigations=off test_files=${remaining.join(",")}`],
      ...["-drive", `file=${host.rootfs},format=raw,if=virtio,snapshot=on`],
      ...["-drive", `file=${workDisk},format=raw,if=virtio,snapshot=on,discard=unmap`],
      ...["-serial", `file:${console}`, "-chardev", "stdio,id=output,signal=off", "-serial", "chardev:output"],
      ...["-serial", `file:${serialResults}`],
      ...["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"],
      ...["-d", "cpu_reset", "-D", log],
    ],
    { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, TMPDIR: scratch } },
  );
  let stderr = "";
  qemu.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    process.stderr.write(text);
  });
  let why: string | undefined;
  const stop = (reason?: string): void => {
    why ??= reason;
    qemu.kill("SIGKILL");
  };
  const booting = setTimeout(() => stop(`it did not boot within ${bootTimeoutMs / 60_000} min`), bootTimeoutMs);
  const onTimeout = (): void => stop(`it did not end within ${minutes} min`);
  const onInterrupt = (): void => stop();
  running.addEventListener("abort", onTimeout, { once: true });
  interrupted.signal.addEventListener("abort", onInterrupt, { once: true });
  if (interrupted.signal.aborted) stop();
  let booted = false;
  const closed = once(qemu, "close") as Promise<[number | null, NodeJS.Signals | null]>;
  for await (const line of createInterface({ input: qemu.stdout })) {
    if (line !== bootedLine) {
      process.stdout.write(`${line}\n`);
      continue;
    }
    clearTimeout(booting);
    booted = true;
    say(`the KVM host has booted and runs ${remaining.join(", ")}`);
  }
  const [code, signal] = await closed;
  clearTimeout(booting);
  running.removeEventListener("abort", onTimeout);
  interrupted.signal.removeEventListener("abort", onInterrupt);
  // The last line may be incomplete.
  const lines = (await readLeftBehind(serialResults)).split("\n").slice(0, -1);
  const ended = /^\{"ended":(\d+)\}$/.exec(lines.at(-1) ?? "")?.[1];
  const results = lines.filter((line) => !line.startsWith('{"ended":'));
  const end = endOfHost(await readLeftBehind(console), {
    ...{ code, signal, stderr, log: await readLeftBehind(log), stopped: why },
  });
  // A kernel may go on for a while after a failure, and tests fail by it.
  if (ended !== undefined && (ended === "0" || end.cause !== "kernel")) {
    return { booted, results, code: Number(ended) };
  }
  return { booted, results, code: 1, end };
}

/** A QEMU that did not start leaves no files. */
async function readLeftBehind(file: string): Promise<string> {
  return await readFile(file, "utf8").catch(() => "");
}

function say(text: string): void {
  process.stdout.write(`[${Math.round((performance.now() - since) / 1000)} s] ${text}\n`);
}
