import type { ExecOutput } from "#clients/exec.ts";

/** What is iterated, as a stream of the web platform that reads no further than it is asked to. */
export function readableOf<T>(source: AsyncIterable<T>): ReadableStream<T> {
  const iterator = source[Symbol.asyncIterator]();
  return new ReadableStream<T>(
    {
      async pull(controller) {
        const { done, value } = await iterator.next();
        if (done === true) controller.close();
        else controller.enqueue(value);
      },
      async cancel() {
        await iterator.return?.();
      },
    },
    { highWaterMark: 0 },
  );
}

/** What was received, whose memory nobody shares: the web platform's own streams take only such. */
export function readableBytes(source: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array<ArrayBuffer>> {
  return readableOf(source as AsyncIterable<Uint8Array<ArrayBuffer>>);
}

/** What a command wrote to one of its pipes. What it wrote to the other one is dropped. */
export async function* bytesOfPipe(
  output: AsyncIterable<ExecOutput>,
  pipe: ExecOutput["pipe"],
): AsyncGenerator<Uint8Array, void> {
  for await (const part of output) if (part.pipe === pipe) yield part.bytes;
}

/** Standard input of a command as a stream; closing it is end of file. */
export function writableTo(command: {
  write(bytes: Uint8Array): Promise<void>;
  closeStdin(): Promise<void>;
}): WritableStream<Uint8Array> {
  return new WritableStream<Uint8Array>({
    write: async (bytes) => await command.write(bytes),
    close: async () => await command.closeStdin(),
  });
}
