import type { Readable } from "node:stream";

/**
 * Calls `onLine` for each line of a stream. It reads one chunk a turn of the event loop, so that a peer that never stops
 * cannot occupy the loop. Memory: one line of `maxBytes` and one chunk. A longer line ends the reading with `onTooLong`.
 */
export function readLines(
  stream: Readable,
  maxBytes: number,
  onLine: (line: string) => void,
  onTooLong: () => void,
): void {
  let parts: Buffer[] = [];
  let bytes = 0;
  const onData = (chunk: Buffer): void => {
    let at = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, at)) {
      const line = Buffer.concat([...parts, chunk.subarray(at, end)]);
      parts = [];
      bytes = 0;
      at = end + 1;
      if (line.length > maxBytes) return tooLong();
      onLine(line.toString());
    }
    if (at < chunk.length) parts.push(chunk.subarray(at));
    bytes += chunk.length - at;
    if (bytes > maxBytes) return tooLong();
    stream.pause();
    setImmediate(() => stream.resume());
  };
  const tooLong = (): void => {
    stream.off("data", onData);
    stream.resume();
    onTooLong();
  };
  stream.on("data", onData);
}
