import type { Socket } from "node:net";
import { agentVsockPort } from "@opensandbox/wire/guest/vsock.ts";
import { type AgentTransport, type Attempt, untilGreeted, virtioSerialTransport } from "./agent-transport.ts";
import { connectVsock } from "./kernel/sockets.ts";

/**
 * The vsock device of a machine with the address `cid`. When every privileged port of the host is in use, and a host has
 * 1023, a connection goes through the machine's virtio-serial port, whose unix socket is `serial`.
 */
export function vsockTransport(cid: number, serial: string): AgentTransport {
  return {
    name: "vsock",
    endsAt: "agent",
    open: (signal) => open(cid, serial, signal),
  };
}

async function open(cid: number, serial: string, signal: AbortSignal): Promise<Socket> {
  return await untilGreeted(async (): Promise<Attempt | undefined> => {
    const connection = connectVsock(cid, agentVsockPort);
    if (connection === "no machine") return undefined;
    if (connection !== "no port") return { socket: connection.stream, isAccepted: () => connection.isConnected() };
    return { socket: await virtioSerialTransport(serial).open(signal), isAccepted: () => true };
  }, signal);
}
