import type { ExecOutput } from "#clients/exec.ts";

/** A web stream over an iteration. Reads nothing in advance. */
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

/** A web stream over received bytes. Their memory is not shared, as the web platform's own streams require. */
export function readableBytes(source: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array<ArrayBuffer>> {
  return readableOf(source as AsyncIterable<Uint8Array<ArrayBuffer>>);
}

/** The bytes of one pipe. Those of the other one are discarded. */
export async function* bytesOfPipe(
  output: AsyncIterable<ExecOutput>,
  pipe: ExecOutput["pipe"],
): AsyncGenerator<Uint8Array, void> {
  for await (const part of output) if (part.pipe === pipe) yield part.bytes;
}

/** A command's standard input as a web stream. Closing it sends end of file. */
export function writableTo(command: {
  write(bytes: Uint8Array): Promise<void>;
  closeStdin(): Promise<void>;
}): WritableStream<Uint8Array> {
  return new WritableStream<Uint8Array>({
    write: async (bytes) => await command.write(bytes),
    close: async () => await command.closeStdin(),
  });
}
