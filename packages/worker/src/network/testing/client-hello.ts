import { Duplex } from "node:stream";
import { connect } from "node:tls";

/** The first bytes of a TLS client that names `servername`, or no server. */
export async function clientHello(servername?: string): Promise<Buffer> {
  const { promise, resolve } = Promise.withResolvers<Buffer>();
  const line = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      resolve(chunk);
      done();
    },
  });
  const socket = connect({ socket: line, ...(servername === undefined ? {} : { servername }) });
  socket.on("error", () => undefined);
  try {
    return await promise;
  } finally {
    socket.destroy();
  }
}
