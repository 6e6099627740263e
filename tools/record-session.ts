// Writes docs/first-session.md by recording its session with real machines. With --check, reports whether the page is
// still true.
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { readConfig } from "../packages/server/src/config.ts";
import { RecordedTerminal } from "./terminal.ts";

const root = join(import.meta.dirname, "..");

/** The document that the tool writes. */
export const sessionFile = join(root, "docs/first-session.md");

/** Bounds one command. The emulator boots in 5 to 10 s alone, and in minutes on a crowded host. */
const patienceMs = 600_000;

const introduction = `# A first session

What a new user types and sees, on a host that meets the requirements in \`README.md\`. \`node tools/record-session.ts\` recorded this page in real terminals with real machines; \`tools/record-session.vm.test.ts\` repeats the session and compares. Ids, keys, sizes, ages and descriptions of the host vary, so the recording replaces them with fixed values.`;

/** Types the whole session and returns the resulting document. */
export async function recordSession(): Promise<string> {
  await using undo = new AsyncDisposableStack();
  const scratch = await mkdtemp(join(tmpdir(), "osb-first-session-"));
  undo.defer(() => rm(scratch, { recursive: true, force: true }));
  // Machines run as separate users, who need to pass through this directory.
  await chmod(scratch, 0o755);
  const home = join(scratch, "home");
  await mkdir(home);
  const session = new Session(scratch, home);
  await install(session);
  {
    await using _server = await startServer(session);
    await use(session);
  }
  return session.document;
}

async function install(session: Session): Promise<void> {
  session.say(`## Install

In a checkout, as root. \`setup\` installs missing packages; the link gives the command line a short name.`);
  await session.runs("./opensandbox setup", root);
  await session.runs('mkdir -p ~/.local/bin && ln -s "$PWD/opensandbox" ~/.local/bin/osb', root);
  session.say(`## One command

\`run\` starts a new machine and deletes it after the command. The first run takes some minutes because it builds the image.`);
  await session.runs("osb run -- uname -sm");
  await session.runs("echo 6 7 | osb run -- awk '{ print $1 * $2 }'");
}

async function startServer(session: Session): Promise<AsyncDisposable> {
  session.say(`## A server

A server keeps sandboxes. It runs in a terminal of its own until Ctrl-C.`);
  await using undo = new AsyncDisposableStack();
  const terminal = undo.use(session.open("osb up"));
  undo.defer(async () => {
    terminal.type("\u0003");
    await terminal.ended(AbortSignal.timeout(patienceMs));
  });
  // The last line that it prints.
  await terminal.shows(/export E2B_API_KEY=\S+\s/, AbortSignal.timeout(patienceMs));
  // The server's log may come before and after it.
  const [greeting = ""] = /^OpenSandbox is ready[^]*export E2B_API_KEY=\S+$/m.exec(terminal.text) ?? [];
  session.show("osb up", aboutHost(greeting));
  return undo.move();
}

/** Removes the lines that differ between hosts. */
function aboutHost(text: string): string {
  return text
    .split("\n")
    .filter((line) => !/^ {2} +- /.test(line))
    .join("\n")
    .replaceAll(/^( {2}(?:hypervisor|accelerator|network) +).*(?:\n(?! {2}\w+ {2}|$).*)*/gm, "$1...");
}

async function use(session: Session): Promise<void> {
  session.say("## A sandbox\n\nA sandbox is a machine that stays. In another terminal:");
  const id = await session.runs("osb create");
  await session.runs("osb ls");
  session.say("`exec` runs a command in the sandbox and passes its input, output and exit code through:");
  await session.runs(`osb exec ${id} -- python3 -c 'print(6 * 7)'`);
  await session.runs(`osb exec ${id} 'echo hello | tee greeting; exit 3' || echo "it ended with $?"`);
  session.say("A session is a command that keeps running without a client:");
  await session.runs(`osb session start ${id} -- sleep 100000`);

  session.say("## A shell\n\nCtrl-] leaves the shell running.");
  const left = await session.types(`osb shell ${id}`, [
    { prompts: 1, typed: "whoami\r" },
    { prompts: 2, typed: "n=kept\r" },
    { prompts: 3, typed: "\u001d" },
  ]);
  const [, shellId = ""] = /--session (\S+)/.exec(left) ?? [];
  session.say("A shell that was left shows its earlier output again and continues.");
  await session.types(`osb shell --session ${shellId} ${id}`, [
    { prompts: 3, typed: "echo $n\r" },
    { prompts: 4, typed: "exit\r" },
  ]);

  session.say("## Files\n\n`cp` copies in both directions.");
  await session.runs(`echo 'print("from the host")' > hello.py`);
  await session.runs(`osb cp hello.py ${id}:`);
  await session.runs(`osb exec ${id} -- python3 hello.py`);
  await session.runs(`osb cp ${id}:greeting . && cat greeting`);

  session.say("## Hibernation\n\nA hibernated sandbox uses no memory. After it wakes, its processes continue.");
  await session.runs(`osb hibernate ${id}`);
  await session.runs("osb ls");
  await session.runs(`osb wake ${id}`);
  await session.runs(`osb exec ${id} -- pgrep --count --exact sleep`);

  session.say(
    "## Checkpoints and forks\n\nA checkpoint is a restore point of a sandbox. `fork` starts another sandbox from it, and `restore` returns to it.",
  );
  const checkpoint = await session.runs(`osb checkpoint create ${id} --name before`);
  await session.runs(`osb exec ${id} -- rm greeting`);
  const fork = await session.runs(`osb fork ${checkpoint}`);
  await session.runs(`osb exec ${fork} -- cat greeting`);
  await session.runs(`osb restore ${id} ${checkpoint}`);
  await session.runs(`osb exec ${id} -- cat greeting`);

  session.say("## Clean-up");
  await session.runs(`osb kill ${id} ${fork}`);
  await session.runs("osb ls");
}

/** One user on one host, and the document of the session. */
class Session {
  readonly #home: string;
  readonly #env: NodeJS.ProcessEnv;
  readonly #names: Names;
  readonly #parts: string[] = [introduction];
  #isInBlock = false;

  constructor(scratch: string, home: string) {
    const { imagesDirectory, templatesDirectory } = readConfig(process.env);
    const data = join(scratch, "data");
    this.#home = home;
    this.#env = {
      HOME: home,
      LANG: "C.UTF-8",
      PATH: [join(home, ".local/bin"), process.env["PATH"]].join(delimiter),
      OPENSANDBOX_DATA_DIR: data,
      OPENSANDBOX_PORT: "0",
      OPENSANDBOX_IMAGES_DIR: imagesDirectory,
      OPENSANDBOX_TEMPLATES_DIR: templatesDirectory,
    };
    this.#names = new Names(data);
  }

  get document(): string {
    return `${this.#parts.join("\n\n")}\n`;
  }

  say(text: string): void {
    this.#parts.push(text);
    this.#isInBlock = false;
  }

  /** Records a command and its output. */
  show(line: string, shown: string): void {
    const text = this.#names.normalise([`$ ${line}`, ...(shown === "" ? [] : [shown])].join("\n"));
    const before = this.#isInBlock ? this.#parts.pop()?.replace(/\n```$/, "") : "```console";
    this.#parts.push(`${before ?? ""}\n${text}\n\`\`\``);
    this.#isInBlock = true;
  }

  open(line: string, cwd = this.#home): RecordedTerminal {
    return new RecordedTerminal(line, { cwd, env: this.#env });
  }

  /** Runs a command that must succeed. Returns its output. */
  async runs(line: string, cwd?: string): Promise<string> {
    return await this.types(line, [], cwd);
  }

  /** Runs a command and types each of `keys` when its number of prompts is visible. */
  async types(line: string, keys: readonly TypedKeys[], cwd?: string): Promise<string> {
    process.stderr.write(`$ ${line}\n`);
    await using terminal = this.open(line, cwd);
    const signal = AbortSignal.timeout(patienceMs);
    for (const { prompts, typed } of keys) {
      await terminal.shows(new RegExp(`(?:${prompt.source}[^]*){${prompts}}$`), signal);
      terminal.type(typed);
    }
    const code = await terminal.ended(signal);
    if (code !== 0) throw new Error(`${line}: ended with ${code}:\n${terminal.text}`);
    this.show(line, terminal.text);
    return terminal.text;
  }
}

interface TypedKeys {
  readonly prompts: number;
  readonly typed: string;
}

const prompt = /sandbox@sandbox:\S+\$/;

/** Replaces values that change with every run by stable names. */
class Names {
  readonly #dataDirectory: string;
  readonly #sandboxes: string[] = [];
  readonly #checkpoints: string[] = [];

  constructor(dataDirectory: string) {
    this.#dataDirectory = dataDirectory;
  }

  normalise(text: string): string {
    return text
      .replaceAll(this.#dataDirectory, "/var/lib/opensandbox")
      .replaceAll(/\bsb-[0-9a-f]{16}\b/g, (id) => `sb-${String(place(id, this.#sandboxes)).padStart(16, "0")}`)
      .replaceAll(
        /\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/g,
        (id) => `00000000-0000-4000-8000-00000000000${place(id, this.#checkpoints)}`,
      )
      .replaceAll(/\bosb_[\w-]{16,}/g, "osb_0123456789abcdef")
      .replaceAll(/\b127\.0\.0\.1:\d+/g, "127.0.0.1:8080")
      .replaceAll(/#sign-in=[\w-]+/g, "#sign-in=0123456789abcdef")
      .replaceAll(/[\d.]+ MB on disk/g, "30 MB on disk")
      .replaceAll(/(?<=\d MB +)\d+[smh]$/gm, "12s")
      .replaceAll(/(?<=--session )\S+/g, "00000002")
      .replaceAll(/^[0-9a-f]{8}$/gm, "00000001");
  }
}

/** Numbers start at 1, in the order of first appearance. */
function place(id: string, seen: string[]): number {
  if (!seen.includes(id)) seen.push(id);
  return seen.indexOf(id) + 1;
}

if (import.meta.main) {
  const recorded = await recordSession();
  if (!process.argv.includes("--check")) {
    await writeFile(sessionFile, recorded);
  } else if (recorded !== (await readFile(sessionFile, "utf8"))) {
    process.stdout.write(recorded);
    console.error("docs/first-session.md differs from that: run `node tools/record-session.ts` and commit the file");
    process.exitCode = 1;
  }
}
