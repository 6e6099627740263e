import { createSocket } from "node:dgram";
import { Resolver } from "node:dns/promises";
import { once } from "node:events";
import type { ResolveTxt } from "#previews/domain-proofs.ts";

/** A name server for TXT records on a port of this host. */
export interface DnsServer extends Disposable {
  /** The values of the TXT records of each name. A name that is not there does not exist. */
  readonly records: Map<string, readonly string[]>;
  /** The names that were asked for. */
  readonly asked: string[];
  /** Answers every question with SERVFAIL. */
  failing: boolean;
  readonly resolveTxt: ResolveTxt;
}

export async function startDnsServer(): Promise<DnsServer> {
  const socket = createSocket("udp4");
  const asked: string[] = [];
  const records = new Map<string, readonly string[]>();
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  const { port } = socket.address();
  const server: DnsServer = {
    asked,
    records,
    failing: false,
    resolveTxt: async (name) => {
      const resolver = new Resolver({ timeout: 2000, tries: 2 });
      resolver.setServers([`127.0.0.1:${port}`]);
      return await resolver.resolveTxt(name);
    },
    [Symbol.dispose]: () => socket.close(),
  };
  socket.on("message", (message, from) => {
    const { name, end } = questionOf(message);
    asked.push(name);
    const values = records.get(name);
    const code = server.failing ? 2 : values === undefined ? 3 : 0;
    const answers = server.failing ? [] : (values ?? []).map(answerOf);
    socket.send(replyTo(message.subarray(0, end), code, answers), from.port, from.address);
  });
  return server;
}

/** RFC 1035, section 4.1.2: labels with their lengths, then type and class. */
function questionOf(message: Buffer): { readonly name: string; readonly end: number } {
  const labels: string[] = [];
  let at = 12;
  for (let length = message[at]!; length > 0; length = message[at]!) {
    labels.push(message.toString("latin1", at + 1, at + 1 + length));
    at += 1 + length;
  }
  return { name: labels.join(".").toLowerCase(), end: at + 5 };
}

/** The question's name by a pointer, TXT, IN, a TTL of zero, and the value in strings of at most 255 bytes. */
function answerOf(value: string): Buffer {
  const strings = value.match(/.{1,255}/gs) ?? [""];
  const data = Buffer.concat(
    strings.map((text) => Buffer.from(`${String.fromCharCode(text.length)}${text}`, "latin1")),
  );
  const length = Buffer.alloc(2);
  length.writeUInt16BE(data.length);
  return Buffer.concat([Buffer.from("c00c0010000100000000", "hex"), length, data]);
}

function replyTo(question: Buffer, code: number, answers: readonly Buffer[]): Buffer {
  const reply = Buffer.concat([question, ...answers]);
  reply.writeUInt16BE(0x8180 | code, 2);
  for (const [index, count] of [1, answers.length, 0, 0].entries()) reply.writeUInt16BE(count, 4 + 2 * index);
  return reply;
}
