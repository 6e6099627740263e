/** Servers of one guest. Every call rejects with `not_found` when the sandbox does not run on this worker. */
export interface GuestPorts {
  /**
   * Connects to a server in the guest as a program of the guest would, so that servers on localhost are reached too.
   * `not_found` when nothing listens. The connection lasts until the server has ended it or `signal` aborts.
   */
  open(port: number, signal: AbortSignal): Promise<PortConnection>;
}

/** A TCP connection to a server in the guest: a stream in each direction. */
export interface PortConnection {
  /**
   * Bytes from the server, until it ends its side. The server can send more only while the caller reads. Rejects when
   * the connection breaks.
   */
  readonly incoming: AsyncIterable<Uint8Array>;
  /** Settles when more bytes may be written. */
  write(bytes: Uint8Array): Promise<void>;
  /** Ends this side; the server may go on sending. */
  end(): Promise<void>;
}
