import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";

/** A connection between two ports of this host that a test can disturb. */
export interface Cable extends AsyncDisposable {
  readonly url: string;
  /** Breaks every connection and refuses new ones. */
  cut(): void;
  /** Stops to carry bytes, and keeps every connection open. */
  stall(): void;
  mend(): void;
}

/** Starts a cable to the server at `url`. */
export async function startCable(url: string): Promise<Cable> {
  const sockets = new Set<Socket>();
  let state: "whole" | "cut" | "stalled" = "whole";
  const proxy = createServer((near) => {
    if (state === "cut") {
      near.destroy();
      return;
    }
    const far = connect(Number(new URL(url).port), "127.0.0.1");
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.once("close", () => sockets.delete(socket));
    }
    carry(near, far);
    carry(far, near);
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  const address = proxy.address();
  const port = typeof address === "object" && address !== null ? address.port : assert.fail("no port");
  return {
    url: `https://127.0.0.1:${port}`,
    cut() {
      state = "cut";
      breakAll();
    },
    stall() {
      state = "stalled";
    },
    mend() {
      breakAll();
      state = "whole";
    },
    async [Symbol.asyncDispose]() {
      breakAll();
      proxy.close();
      await once(proxy, "close");
    },
  };

  /** With back-pressure, so that what is in flight here stays within the buffers of two sockets. */
  function carry(from: Socket, to: Socket): void {
    from.on("data", (bytes: Buffer) => {
      if (state !== "whole") return;
      if (to.write(bytes)) return;
      from.pause();
      to.once("drain", () => from.resume());
    });
    from.once("close", () => {
      if (state !== "stalled") to.destroy();
    });
  }

  function breakAll(): void {
    for (const socket of sockets) socket.destroy();
  }
}
