import { type ServerResponse, STATUS_CODES } from "node:http";
import type { Socket } from "node:net";

/** Connects both ways. The end of one side ends the other; an error resets it. */
export function join(one: Socket, other: Socket): void {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const) {
    from.pipe(to);
    from.on("error", () => from.destroy());
    from.once("close", () => {
      if (from.readableEnded && from.writableFinished) return;
      to.resetAndDestroy();
    });
  }
}

/** Answers in the server's place, or breaks the response off if it has begun. */
export function explain(response: ServerResponse, status: number, text: string): void {
  if (response.destroyed) return;
  if (response.headersSent) return void response.destroy();
  // The reason is set explicitly, because the response still holds one that Node has refused.
  response.writeHead(status, STATUS_CODES[status] ?? "", { "content-type": "text/plain", connection: "close" });
  response.end(`opensandbox: ${text}\n`);
}
