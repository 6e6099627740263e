import { Duplex } from "node:stream";
import type { PortConnection } from "@opensandbox/wire/worker/ports.ts";

/** A connection to a guest's port as a stream. Destroying it calls `abort`, which must end the connection. */
export function portStream(connection: PortConnection, abort: () => void): Duplex {
  const incoming = connection.incoming[Symbol.asyncIterator]();
  const stream: Duplex = new Duplex({
    allowHalfOpen: true,
    read() {
      // One chunk for each read, so that the stream's buffer is the only one.
      incoming.next().then(
        ({ done, value }) => stream.push(done === true ? null : value),
        (error: unknown) => stream.destroy(asError(error)),
      );
    },
    write(chunk: Buffer, _encoding, done) {
      void report(() => connection.write(chunk), done);
    },
    final(done) {
      void report(() => connection.end(), done);
    },
    destroy(error, done) {
      abort();
      done(error);
    },
  });
  // The guest may end the connection while nothing else listens for errors, which must not end this process.
  stream.on("error", () => stream.destroy());
  return stream;
}

async function report(work: () => Promise<void>, done: (error?: Error) => void): Promise<void> {
  try {
    await work();
  } catch (error) {
    done(asError(error));
    return;
  }
  done();
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
