import { PassThrough, Readable } from "node:stream";
import type { Client } from "@opensandbox/sdk";
import { commands } from "../commands/commands.ts";
import type { Host } from "../context.ts";
import type { Output } from "../output/write-to.ts";
import type { InterruptName, Interrupts } from "../interrupts.ts";
import { runCli } from "../run-cli.ts";

export interface TestRun {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** The servers that the command connected to. */
  readonly connected: readonly { readonly url: string; readonly apiKey: string | undefined }[];
}

export interface TestOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: string;
  /** The parts of a client that the command may use. */
  readonly client?: PartialClient;
  readonly interrupts?: Interrupts;
  /** Whether standard error is a terminal. */
  readonly terminal?: boolean;
}

export type PartialClient = { readonly [Part in keyof Client]?: Partial<Client[Part]> };

/** Runs one command line in this process. By default a server is configured, and `client` stands in for it. */
export async function runForTest(argv: readonly string[], options: TestOptions = {}): Promise<TestRun> {
  const [stdout, stderr] = [sink(), sink()];
  const connected: { url: string; apiKey: string | undefined }[] = [];
  const host: Host = {
    program: "osb",
    env: options.env ?? { OPENSANDBOX_API_URL: "http://server.test", OPENSANDBOX_API_KEY: "key-of-the-test" },
    stdin: Readable.from(options.stdin === undefined ? [] : [Buffer.from(options.stdin)]),
    stdout: stdout.stream,
    stderr: Object.assign(stderr.stream, { isTTY: options.terminal === true }),
    interrupts: options.interrupts ?? testInterrupts(),
    async connect(url, apiKey) {
      connected.push({ url, apiKey });
      return (options.client ?? {}) as Client;
    },
  };
  const code = await runCli(commands, argv, host);
  return { code, stdout: stdout.text(), stderr: stderr.text(), connected };
}

export interface TestInterrupts extends Interrupts {
  send(name: InterruptName): void;
}

export function testInterrupts(): TestInterrupts {
  const canceled = new AbortController();
  const handlers: ((name: InterruptName) => void)[] = [];
  let last: InterruptName | undefined;
  return {
    signal: canceled.signal,
    get last() {
      return last;
    },
    take(handle) {
      handlers.push(handle);
      return { [Symbol.dispose]: () => handlers.pop() };
    },
    send(name) {
      last = name;
      handlers.at(-1)?.(name);
    },
  };
}

/** A stream that keeps everything written to it. */
export function sink(): { readonly stream: Output; readonly text: () => string } {
  const stream = new PassThrough();
  const chunks: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  return { stream, text: () => Buffer.concat(chunks).toString("utf8") };
}
