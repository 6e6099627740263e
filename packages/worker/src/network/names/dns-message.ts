/**
 * DNS messages (RFC 1035), as far as a forwarder must understand them. Both peers are untrusted: the parsers check every
 * length and return undefined for a message that they do not understand. Worst case: {@link questionLimits} and
 * {@link answerLimits} bound the steps for one message, about 0.1 ms for a question and 3 ms for an answer; memory is
 * proportional to the records, at most 6,000 of them in 64 KiB.
 */
export interface Question {
  readonly id: number;
  /** In lower case, without the final dot. Undefined when it has a character that is not allowed in host names. */
  readonly name: string | undefined;
  readonly type: number;
  readonly class: number;
  /** The flag "recursion desired" of the query. */
  readonly recursion: boolean;
  /** The largest answer that the asker accepts in a datagram. */
  readonly datagramBytes: number;
  /** Whether the query has an option record (EDNS). */
  readonly extended: boolean;
  /** Whether the asker wants DNSSEC records. */
  readonly security: boolean;
  /** The question section, byte for byte. */
  readonly bytes: Buffer;
}

export interface ResourceRecord {
  readonly section: "answer" | "authority" | "additional";
  readonly name: string | undefined;
  readonly type: number;
  readonly class: number;
  readonly ttl: number;
  readonly ttlAt: number;
  readonly data: Buffer;
  /** The name that a CNAME stands for. */
  readonly target?: string | undefined;
}

export const recordTypes = { a: 1, cname: 5, aaaa: 28, opt: 41, svcb: 64, https: 65 } as const;
export const responseCodes = { noError: 0, serverFailure: 2, nameError: 3, notImplemented: 4 } as const;

const headerBytes = 12;
const minDatagramBytes = 512;
/** The datagram size that this forwarder asks for: it fits into one packet everywhere (DNS flag day 2020). */
const askedDatagram = 1232;

/** A query with one question and a few options has less than 400 bytes. */
export const maxQuestionBytes = 4096;

/** Bounds on the work that one message may cause. */
export interface MessageLimits {
  readonly maxRecords: number;
  /** Labels and pointers that are followed, over all names of the message. */
  readonly maxSteps: number;
}

/** A name has at most 127 labels; a query has it once, with an option record or two behind it. */
const questionLimits: MessageLimits = { maxRecords: 16, maxSteps: 512 };

/** Over 2,500 addresses of one name fit; the largest answers seen in practice have a few hundred records. */
const answerLimits: MessageLimits = { maxRecords: 6000, maxSteps: 16_384 };

/** The only question of a query; undefined for any other message. */
export function parseQuestion(message: Buffer): Question | undefined {
  if (message.length < headerBytes || message.length > maxQuestionBytes) return undefined;
  const flags = message.readUInt16BE(2);
  const isResponse = (flags & 0x8000) !== 0;
  const operation = (flags >> 11) & 15;
  if (isResponse || operation !== 0 || message.readUInt16BE(4) !== 1) return undefined;
  const name = readName(message, headerBytes, { left: questionLimits.maxSteps });
  if (name === undefined || name.end + 4 > message.length) return undefined;
  const records = parseRecords(message, questionLimits);
  const option = records?.find(({ section, type }) => section === "additional" && type === recordTypes.opt);
  return {
    id: message.readUInt16BE(0),
    name: name.text,
    type: message.readUInt16BE(name.end),
    class: message.readUInt16BE(name.end + 2),
    recursion: (flags & 0x0100) !== 0,
    // An option record keeps the size where others have their class, and flags in its TTL.
    datagramBytes: Math.max(minDatagramBytes, option?.class ?? 0),
    extended: option !== undefined,
    security: option !== undefined && (option.ttl & 0x8000) !== 0,
    bytes: Buffer.from(message.subarray(headerBytes, name.end + 4)),
  };
}

/** Asks the question in a query of this forwarder. Nothing else that the guest has sent goes further. */
export function encodeQuery(question: Question, id: number): Buffer {
  const option = Buffer.alloc(question.extended ? 11 : 0);
  if (question.extended) {
    option.writeUInt16BE(recordTypes.opt, 1);
    option.writeUInt16BE(askedDatagram, 3);
    option.writeUInt32BE(question.security ? 0x8000 : 0, 5);
  }
  return Buffer.concat([header(id, 0x0100, question.extended ? 1 : 0), question.bytes, option]);
}

/** An answer without records. `code` is one of {@link responseCodes}. */
export function encodeRefusal(question: Question, code: number, { truncated = false } = {}): Buffer {
  const flags = 0x8080 | (question.recursion ? 0x0100 : 0) | (truncated ? 0x0200 : 0) | code;
  return Buffer.concat([header(question.id, flags, 0), question.bytes]);
}

/** Whether a message answers `question`, asked under `id`. */
export function answersQuestion(message: Buffer, question: Question, id: number): boolean {
  return (
    message.length >= headerBytes + question.bytes.length &&
    message.readUInt16BE(0) === id &&
    (message.readUInt16BE(2) & 0x8000) !== 0 &&
    message.readUInt16BE(4) === 1 &&
    message
      .subarray(headerBytes, headerBytes + question.bytes.length)
      .toString("latin1")
      .toLowerCase() === question.bytes.toString("latin1").toLowerCase()
  );
}

export function isTruncated(message: Buffer): boolean {
  return (message.readUInt16BE(2) & 0x0200) !== 0;
}

/** The records of a message with at most one question, in order; undefined when it is malformed or above `limits`. */
export function parseRecords(message: Buffer, limits: MessageLimits = answerLimits): ResourceRecord[] | undefined {
  if (message.length < headerBytes) return undefined;
  const steps: StepBudget = { left: limits.maxSteps };
  let at = headerBytes;
  const questions = message.readUInt16BE(4);
  if (questions > 1) return undefined;
  if (questions === 1) {
    const name = readName(message, at, steps);
    if (name === undefined) return undefined;
    at = name.end + 4;
  }
  const records: ResourceRecord[] = [];
  for (const [index, section] of (["answer", "authority", "additional"] as const).entries()) {
    for (let count = message.readUInt16BE(6 + 2 * index); count > 0; count -= 1) {
      if (records.length === limits.maxRecords) return undefined;
      const name = readName(message, at, steps);
      if (name === undefined || name.end + 10 > message.length) return undefined;
      const dataAt = name.end + 10;
      const end = dataAt + message.readUInt16BE(name.end + 8);
      if (end > message.length) return undefined;
      const type = message.readUInt16BE(name.end);
      records.push({
        section,
        name: name.text,
        type,
        class: message.readUInt16BE(name.end + 2),
        ttl: message.readUInt32BE(name.end + 4),
        ttlAt: name.end + 4,
        data: message.subarray(dataAt, end),
        ...(type === recordTypes.cname ? { target: readName(message, dataAt, steps)?.text } : {}),
      });
      at = end;
    }
  }
  return records;
}

function header(id: number, flags: number, additional: number): Buffer {
  const bytes = Buffer.alloc(headerBytes);
  bytes.writeUInt16BE(id, 0);
  bytes.writeUInt16BE(flags, 2);
  bytes.writeUInt16BE(1, 4);
  bytes.writeUInt16BE(additional, 10);
  return bytes;
}

/** Counts down over all names of a message, so that names that share pointers cannot multiply the work. */
interface StepBudget {
  left: number;
}

/** The name at `at` and the offset behind it; undefined when it is malformed or the budget is used up. */
function readName(
  message: Buffer,
  at: number,
  steps: StepBudget,
): { readonly text: string | undefined; readonly end: number } | undefined {
  const labels: string[] = [];
  let end: number | undefined;
  let length = 0;
  for (let position = at; ;) {
    if (position >= message.length || steps.left === 0) return undefined;
    steps.left -= 1;
    const size = message[position]!;
    if (size === 0) {
      const text = labels.join(".").toLowerCase();
      return { text: /^[a-z0-9_.-]*$/.test(text) ? text : undefined, end: end ?? position + 1 };
    }
    if (size >= 0xc0) {
      if (position + 2 > message.length) return undefined;
      const target = message.readUInt16BE(position) & 0x3fff;
      end ??= position + 2;
      // Pointers must lead backwards, so that following them ends.
      if (target >= position) return undefined;
      position = target;
      continue;
    }
    length += size + 1;
    if (size > 63 || length > 254 || position + 1 + size > message.length) return undefined;
    const label = message.subarray(position + 1, position + 1 + size).toString("latin1");
    // A dot within a label would make another name of it.
    labels.push(label.includes(".") ? "\0" : label);
    position += 1 + size;
  }
}
