import { createSocket, type Socket as DatagramSocket } from "node:dgram";
import { createServer, type Socket } from "node:net";
import { runCommand } from "#host/run-command.ts";
import { openTcpListener, openUdpSocket } from "#host/kernel/sockets.ts";

/** A connection or a datagram that arrived. */
export interface Arrival {
  readonly port: number;
  readonly from: string;
  readonly text: string;
}

/**
 * A world behind this host's `eth0`: a namespace with every address that a guest might try, and servers on each. They
 * greet TCP connections with the address and port that were connected to.
 */
export interface Internet extends AsyncDisposable {
  readonly namespace: string;
  /** Datagrams and connections that have arrived. */
  readonly arrivals: Arrival[];
}

/** The addresses of the world, without those of the link. */
export const worldAddresses = {
  site: "203.0.113.10",
  otherSite: "203.0.113.20",
  publicResolver: "8.8.8.8",
  metadata: "169.254.169.254",
  azure: "168.63.129.16",
  private10: "10.99.0.1",
  private172: "172.20.0.1",
  private192: "192.168.77.1",
  carrier: "100.64.0.1",
  linkLocal: "169.254.7.7",
  benchmark: "198.18.0.1",
} as const;

/** This host's own address on that link, which looks like a public one. */
export const hostAddress = "198.51.100.1";
const gateway = "198.51.100.2";
const worldPorts = [22, 53, 80, 443, 853, 5000] as const;

export async function startInternet(ports: readonly number[] = worldPorts): Promise<Internet> {
  const namespace = "/run/netns/internet";
  await runCommand("make the world", ["ip", "-batch", "-"], {
    input: `netns add internet
link add eth0 type veth peer name eth0 netns internet
addr add ${hostAddress}/24 dev eth0
link set eth0 up
route add default via ${gateway}
`,
  });
  await runCommand("make the world", ["ip", "-n", "internet", "-batch", "-"], {
    input: [
      ...[
        "link set lo up",
        `addr add ${gateway}/24 dev eth0`,
        "link set eth0 up",
        `route add default via ${hostAddress}`,
      ],
      ...Object.values(worldAddresses).map((address) => `addr add ${address}/32 dev lo`),
    ]
      .map((line) => `${line}\n`)
      .join(""),
  });
  const arrivals: Arrival[] = [];
  const stack = new DisposableStack();
  for (const port of ports) {
    stack.use(greet(namespace, port, arrivals));
    // Bound to each address, because answers of a wildcard socket come from another one.
    for (const address of Object.values(worldAddresses)) stack.use(hear(namespace, port, arrivals, address));
  }
  return {
    namespace,
    arrivals,
    async [Symbol.asyncDispose]() {
      stack[Symbol.dispose]();
      await runCommand("end the world", ["ip", "-batch", "-"], { input: "link del eth0\nnetns del internet\n" });
    },
  };
}

/** Greets each connection, then echoes. */
export function greet(namespace: string, port: number, arrivals: Arrival[], address = "0.0.0.0"): Disposable {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    arrivals.push({ port, from: socket.remoteAddress ?? "", text: "connection" });
    socket.on("error", () => socket.destroy());
    socket.write(`${socket.localAddress}:${socket.localPort}\n`);
    socket.pipe(socket);
  });
  server.listen({ fd: openTcpListener(namespace, { address, port }) });
  return {
    [Symbol.dispose]: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** Echoes datagrams. */
export function hear(namespace: string, port: number, arrivals: Arrival[], address: string): Disposable {
  const socket: DatagramSocket = createSocket("udp4");
  socket.bind({ fd: openUdpSocket(namespace, { address, port }) });
  socket.on("message", (message, from) => {
    arrivals.push({ port, from: from.address, text: message.toString("latin1") });
    socket.send(message, from.port, from.address, () => undefined);
  });
  return { [Symbol.dispose]: () => socket.close() };
}
