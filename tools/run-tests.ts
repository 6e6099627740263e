// Runs the tests and ends with one line: N passed, N failed, N skipped. `./test --help` prints the usage.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { globSync, statSync } from "node:fs";
import { chmod, mkdtemp, readFile, rm } from "node:fs/promises";
import { constants, tmpdir } from "node:os";
import { delimiter, join, relative, resolve } from "node:path";
import { killProcessesOf } from "../packages/worker/src/host/kill-by-path.ts";
import { findFirecracker } from "../packages/worker/src/hypervisor/firecracker/examine-firecracker.ts";
import { removeLeftOverNetworks } from "../packages/worker/src/network/host-firewall.ts";
import { readConfig } from "../packages/server/src/config.ts";
import { type CountedTest, machineCounts } from "./machine-counts.ts";
import type { FileDuration, TestResult } from "./test-results.ts";

const help = `usage: ./test [fast | kvm [all | FILE...] | machines | FILE...]

  ./test              checks, fast tests, tests with real processes, tests in real machines, tests under KVM
  ./test fast         only what starts no machine; also what \`npm run check\` runs
  ./test kvm          the tests under KVM that are part of ./test
  ./test kvm all      every test of KVM
  ./test kvm FILE...  only these test files, under KVM
  ./test machines     the set-up of clean distributions in machines of their own, which are part of nothing else
  ./test FILE...      only these test files

A host without KVM emulates one that has it, with 2 processors and 5 GiB of memory.

Tests with random input print their seed. These variables change them:
  OPENSANDBOX_TEST_SEED=N          repeats the choices of an earlier run, though not their timing
  OPENSANDBOX_TEST_SOAK_SECONDS=N  length of tests/e2e/hostile-agent.process.test.ts and tests/e2e/soak.process.test.ts,
                                   60 and 40 without it; from 300 on the latter has 200 sandboxes at a time
  OPENSANDBOX_TEST_WAKES=N         wakes in a row over vsock; 5 without it
  OPENSANDBOX_TEST_VSOCK_MB=N      size of the file that goes over vsock; 8 without it
  OPENSANDBOX_TEST_MACHINE=SUITE   the one distribution of ./test machines and of the set-ups in tests/host/: trixie,
                                   bookworm or noble, which is left out of the latter otherwise
  OPENSANDBOX_TEST_POWER_CUTS=N    power cuts that each test in tests/power-cut/ tries; all: every possible one

Tests of Firecracker run where a program firecracker is in the PATH, or OPENSANDBOX_FIRECRACKER_BIN names one.

The last line is: N passed, N failed, N skipped. The line before it says how many tests ran under KVM, over vsock and
under Firecracker. Before them, each failed test is named again with its error, and each skip says why.
Tests in real machines are named *.vm.test.ts, those with other real processes *.process.test.ts.
`;

const root = resolve(import.meta.dirname, "..");
const node = [process.execPath, "--disable-warning=ExperimentalWarning"] as const;

const checks = [
  { name: "format", argv: ["oxfmt", "--check"] },
  { name: "lint and types", argv: ["oxlint", "--type-aware", "--type-check", "--deny-warnings"] },
  { name: "unused code", argv: ["knip"] },
  { name: "openapi/control-plane.json", argv: [...node, "tools/print-openapi.ts", "--check"] },
] as const;

/** `timeoutMs` bounds a whole suite. The emulator boots in 5 to 10 s alone, and in minutes on a crowded host. */
const kinds = [
  { name: "fast tests", files: "{packages,tools,tests,bench}/**/!(*.vm|*.process).test.ts", timeoutMs: 600_000 },
  { name: "tests with processes", files: "{packages,tools,tests,bench}/**/*.process.test.ts", timeoutMs: 1_200_000 },
  { name: "tests in machines", files: "{packages,tools,tests,bench}/**/*.vm.test.ts", timeoutMs: 1_800_000 },
] as const;

/** Tests of Firecracker, which needs KVM. Without a Firecracker on this host, they are skipped and say so. */
const underFirecracker = ["tests/e2e/firecracker.vm.test.ts"];

/** Tests under KVM that belong to every run. An emulated host needs minutes for a file, so a new one needs a reason. */
const underKvm = [
  "tests/e2e/kvm.vm.test.ts",
  "packages/worker/src/host/vsock-listener.vm.test.ts",
  "packages/worker/src/guest/guest-vsock.vm.test.ts",
  ...((await findFirecracker(readConfig(process.env).firecrackerProgram)) === undefined ? [] : underFirecracker),
];

/** The tests of `./test kvm all`. */
const allUnderKvm = [
  ...underKvm,
  "packages/worker/src/hypervisor/qemu/probe-accelerator.vm.test.ts",
  "packages/worker/src/hypervisor/qemu/qemu.vm.test.ts",
  "packages/worker/src/sandboxes/vsock.vm.test.ts",
  "packages/worker/src/hypervisor/firecracker/firecracker.vm.test.ts",
  "tests/e2e/kvm-users.vm.test.ts",
  "tests/e2e/kvm-models.vm.test.ts",
  "tests/torture/kvm.vm.test.ts",
];

/** Tests that emulate a whole host for half an hour each: `./test machines`. */
const inMachinesOfTheirOwn = ["tests/host/clean-machine.vm.test.ts"];
const machinesTimeoutMs = 8 * 60 * 60_000;

/** After this long an emulated KVM host is stopped, and the run fails. {@link underKvm} takes 12 min on a quiet host. */
const kvmMinutes = { part: 40, all: 180 } as const;

/** Files that the summary of many names as the slowest. */
const maxLongest = 25;

type Kind = (typeof kinds)[number]["name"];

const results: CountedTest[] = [];
const durations: FileDuration[] = [];
const interrupted = new AbortController();
/** Temporary directory of every test, so that leftovers can be found and removed. */
const scratch = await mkdtemp(join(tmpdir(), "osb-test-"));
// Machines run as separate users, who need to pass through this directory.
await chmod(scratch, 0o755);

process.exitCode = await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<number> {
  const unknown = args.find((arg) => arg.startsWith("-") && arg !== "--help" && arg !== "-h");
  if (args.length > 0 && args.every((arg) => arg.startsWith("-"))) {
    process[unknown === undefined ? "stdout" : "stderr"].write(help);
    await rm(scratch, { recursive: true });
    return unknown === undefined ? 0 : 2;
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => interrupted.abort(signal));
  }
  const since = performance.now();
  try {
    if (args.length === 0) await runEverything();
    else if (args.length === 1 && args[0] === "fast") await runFast();
    else if (args[0] === "kvm" && args.length === 1) await runUnderKvm(underKvm, kvmMinutes.part);
    else if (args[0] === "kvm" && args.length === 2 && args[1] === "all")
      await runUnderKvm(allUnderKvm, kvmMinutes.all);
    else if (args.length === 1 && args[0] === "machines") await runMachines();
    else if (args[0] === "kvm") await runUnderKvm(args.slice(1).map(existing), kvmMinutes.all);
    else await runFiles(args.map(existing));
  } finally {
    await removeLeftOvers();
  }
  return summarize(since);
}

async function runFast(): Promise<void> {
  for (const check of checks) await runCheck(check);
  await runKind("fast tests");
  await runKind("tests with processes");
}

async function runEverything(): Promise<void> {
  await runFast();
  for (const image of ["minimal", "default"]) {
    const built = await step(`image ${image}`, ["./opensandbox", "image", "build", image], process.env);
    // Without the images every test in a machine would fail with the same message.
    if (!built) return;
  }
  await runKind("tests in machines", [...underKvm, ...inMachinesOfTheirOwn]);
  await runUnderKvm(underKvm, kvmMinutes.part);
}

async function runKind(kind: Kind, except: readonly string[] = []): Promise<void> {
  const files = globSync(kinds.find(({ name }) => name === kind)?.files ?? "", {
    cwd: root,
    exclude: ["**/node_modules/**", ...except],
  });
  await runTests(kind, files.toSorted());
}

async function runMachines(): Promise<void> {
  for (const file of inMachinesOfTheirOwn) {
    await runRunner(file, machinesTimeoutMs, ["--test-reporter=spec"], [file]);
  }
}

async function runFiles(files: readonly string[]): Promise<void> {
  const kindOf = (file: string): Kind =>
    file.endsWith(".vm.test.ts")
      ? "tests in machines"
      : file.endsWith(".process.test.ts")
        ? "tests with processes"
        : "fast tests";
  for (const { name } of kinds) {
    const ofKind = files.filter((file) => kindOf(file) === name);
    if (ofKind.length > 0) await runTests(name, ofKind);
  }
}

/** Runs a check that passes or fails as a whole. */
async function runCheck({ name, argv }: (typeof checks)[number]): Promise<void> {
  await step(name, argv, process.env);
}

/** Runs a program that passes or fails as a whole. */
async function step(name: string, argv: readonly string[], env: NodeJS.ProcessEnv): Promise<boolean> {
  if (interrupted.signal.aborted) return false;
  const since = performance.now();
  title(name);
  const passed = (await run(argv, env)) === 0;
  if (passed) say(`${name}: passed in ${seconds(since)}`);
  results.push({ name, file: "", suites: [], outcome: passed ? "passed" : "failed" });
  return passed;
}

async function runTests(kind: Kind, files: readonly string[]): Promise<void> {
  const timeoutMs = kinds.find(({ name }) => name === kind)?.timeoutMs ?? 0;
  switch (kind) {
    case "fast tests":
      // One process runs all of them: they share no state. The reporter prints a dot per test, and each failure.
      return await runRunner(kind, timeoutMs, ["--test-isolation=none", "--test-reporter=dot"], files);
    case "tests with processes":
      return await runRunner(kind, timeoutMs, ["--test-concurrency=1", "--test-reporter=spec"], files);
    case "tests in machines":
      // Machine tests run one after another, because a machine takes a whole processor while it boots.
      for (const file of files) await runRunner(file, timeoutMs, ["--test-reporter=spec"], [file]);
  }
}

async function runRunner(
  title: string,
  timeoutMs: number,
  options: readonly string[],
  files: readonly string[],
): Promise<void> {
  await collect(title, (output) => [
    ...node,
    "--test",
    `--test-timeout=${timeoutMs}`,
    ...[...options, "--test-reporter-destination=stdout"],
    ...["--test-reporter=./tools/test-results.ts", `--test-reporter-destination=${output}`],
    ...files,
  ]);
}

async function runUnderKvm(files: readonly string[], minutes: number): Promise<void> {
  const run = "tools/kvm-host/run-in-kvm-host.ts";
  const name = `under KVM: ${files.join(", ")}`;
  const argv = (output: string) => [...node, run, output, `${minutes}`, ...files];
  await collect(name, argv, { underKvm: true });
}

/** Runs a program that writes a line for each test to `output`, and counts these lines. */
async function collect(
  name: string,
  argv: (output: string) => readonly string[],
  origin: Pick<CountedTest, "underKvm"> = {},
): Promise<void> {
  if (interrupted.signal.aborted) return;
  const since = performance.now();
  title(name);
  const output = join(scratch, "results");
  await rm(output, { force: true });
  const status = await run(argv(output), { ...process.env, TMPDIR: scratch });
  const lines = (await readFile(output, "utf8").catch(() => "")).split("\n").filter(Boolean);
  const read = lines.map((line) => JSON.parse(line) as TestResult | FileDuration);
  const ended = read.filter((line) => "outcome" in line);
  durations.push(...read.filter((line) => "durationMs" in line));
  results.push(...ended.map((result) => ({ ...result, ...origin })));
  // If the runner fails without a failed test, or runs no test, some tests were not run.
  if (interrupted.signal.aborted) return;
  if ((status !== 0 || ended.length === 0) && !ended.some(({ outcome }) => outcome === "failed")) {
    results.push({
      name: `the test runner ended with ${status} after ${ended.length} tests`,
      file: name,
      suites: [],
      outcome: "failed",
    });
  }
  say(`${name}: ${countsOf(ended)} in ${seconds(since)}`);
}

/** Runs a program to its end in a process group of its own, so that an interrupt ends the whole group. */
async function run(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const [program = "", ...args] = argv;
  const child = spawn(program, args, {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...env, PATH: [join(root, "node_modules/.bin"), env["PATH"]].join(delimiter) },
    detached: true,
  });
  const end = (signal: NodeJS.Signals): void => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, signal);
    } catch {
      // Every process of the group has ended.
    }
  };
  const onInterrupt = (): void => {
    end("SIGTERM");
    // Gives a server time to end its machines.
    setTimeout(() => end("SIGKILL"), 10_000).unref();
  };
  interrupted.signal.addEventListener("abort", onInterrupt, { once: true });
  try {
    const [code, signal] = (await once(child, "exit")) as [number | null, NodeJS.Signals | null];
    return code ?? 128 + (signal === null ? 0 : constants.signals[signal]);
  } catch (error) {
    say(`cannot run ${program}: ${String(error)}`);
    return 127;
  } finally {
    interrupted.signal.removeEventListener("abort", onInterrupt);
  }
}

/** Tests clean up after themselves, but killed ones cannot. */
async function removeLeftOvers(): Promise<void> {
  await killProcessesOf(scratch);
  await rm(scratch, { recursive: true, force: true });
  // Namespaces of machines whose directory has been removed.
  if (process.getuid?.() === 0) await removeLeftOverNetworks();
}

function summarize(since: number): number {
  process.stdout.write("\n");
  const longest = durations.toSorted((a, b) => b.durationMs - a.durationMs).slice(0, maxLongest);
  if (durations.length > maxLongest) {
    const lines = longest.map(({ file, durationMs }) => `  ${duration(durationMs).padStart(12)}  ${file}\n`);
    process.stdout.write(`took longest:\n${lines.join("")}`);
  }
  const skipped = Object.groupBy(
    results.filter(({ outcome }) => outcome === "skipped"),
    ({ reason }) => reason ?? "no reason is given",
  );
  for (const [reason, tests = []] of Object.entries(skipped)) {
    process.stdout.write(`skipped, ${reason}:\n${tests.map((test) => `  ${titleOf(test)}\n`).join("")}`);
  }
  const failed = results.filter(({ outcome }) => outcome === "failed");
  if (failed.length > 0) process.stdout.write(`failed:\n${failed.map(describeFailure).join("")}`);
  if (interrupted.signal.aborted) process.stdout.write("interrupted: not everything was run\n");
  process.stdout.write(`after ${seconds(since)}:\n${machineCounts(results)}\n${countsOf(results)}\n`);
  if (interrupted.signal.aborted) return 128 + constants.signals[interrupted.signal.reason as NodeJS.Signals];
  return failed.length === 0 && results.some(({ outcome }) => outcome === "passed") ? 0 : 1;
}

function titleOf({ name, file }: TestResult): string {
  return file === "" ? name : `${file}: ${name}`;
}

function describeFailure(test: TestResult): string {
  const lines = [titleOf(test), ...(test.error ?? []).map((line) => `    ${line}`)];
  return lines.map((line) => `  ${line}\n`).join("");
}

function countsOf(tests: readonly TestResult[]): string {
  const count = (outcome: TestResult["outcome"]): number => tests.filter((test) => test.outcome === outcome).length;
  return `${count("passed")} passed, ${count("failed")} failed, ${count("skipped")} skipped`;
}

function existing(file: string): string {
  const path = resolve(process.env["INIT_CWD"] ?? process.cwd(), file);
  if (statSync(path, { throwIfNoEntry: false })?.isFile() !== true) {
    say(`there is no test file ${file}; ./test --help says how to run tests`);
    process.exit(2);
  }
  return relative(root, path);
}

function title(text: string): void {
  process.stdout.write(`\n== ${text}\n`);
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

function seconds(since: number): string {
  return duration(performance.now() - since);
}

function duration(ms: number): string {
  const all = Math.round(ms / 1000);
  return all < 60 ? `${all} s` : `${Math.floor(all / 60)} min ${all % 60} s`;
}
