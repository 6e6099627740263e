import * as fc from "fast-check";

const names = [
  ...["Host", "Connection", "Content-Length", "Transfer-Encoding", "Upgrade", "Keep-Alive", "Trailer", "TE", "Expect"],
  ...["Set-Cookie", "Cookie", "Date", "Location", "Proxy-Connection", "__proto__", "constructor", "X-A"],
];
const values = [
  "",
  "0",
  "1",
  "-1",
  "1e3",
  "99999999999999999999",
  "chunked",
  "close",
  "upgrade",
  "gzip, chunked",
  ",,",
];

const text = (maxLength: number): fc.Arbitrary<string> =>
  fc.array(fc.integer({ min: 0, max: 255 }), { maxLength }).map((bytes) => String.fromCharCode(...bytes));

const header = fc
  .tuple(fc.oneof(fc.constantFrom(...names), text(8)), fc.oneof(fc.constantFrom(...values), text(20)))
  .map(([name, value]) => `${name}: ${value}`);

/**
 * Bytes that resemble the beginning of an HTTP message, as latin1 text: one of the start lines or any text, headers that
 * contradict each other, line ends of all kinds, and the beginning of a body.
 */
export function almostHeads(startLines: readonly string[]): fc.Arbitrary<string> {
  return fc
    .tuple(
      fc.oneof({ arbitrary: fc.constantFrom(...startLines), weight: 4 }, { arbitrary: text(30), weight: 1 }),
      fc.array(header, { maxLength: 8 }),
      fc.oneof(
        { arbitrary: fc.constant("\r\n"), weight: 6 },
        { arbitrary: fc.constantFrom("\n", "\r", ""), weight: 1 },
      ),
      fc.oneof(fc.constantFrom("", "0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "fffffffffffffffff\r\n"), text(40)),
    )
    .map(([start, headers, lineEnd, body]) => [start, ...headers, "", ""].join(lineEnd) + body);
}
