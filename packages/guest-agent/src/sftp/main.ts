// The program that serves SFTP in a guest: its client is on standard input and output, as for OpenSSH's sftp-server. It
// runs as the user whose files are served, so the kernel decides what is allowed.
import { once } from "node:events";
import { MalformedPacket } from "./packet.ts";
import { SftpServer } from "./sftp-server.ts";

const server = new SftpServer();
// The client has left: the next read ends this process.
process.stdout.on("error", () => process.exit(0));
try {
  for await (const bytes of process.stdin as AsyncIterable<Buffer>) {
    let accepts = true;
    for (const answer of server.take(bytes)) accepts = process.stdout.write(answer);
    if (!accepts) await once(process.stdout, "drain");
  }
} catch (error) {
  if (!(error instanceof MalformedPacket)) throw error;
  process.stderr.write(`sftp-server: ${error.message}\n`);
  process.exitCode = 1;
}
