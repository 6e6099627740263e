/**
 * The newest version of the worker wire that this version speaks. The lower one of two peers applies. It rises when a
 * peer must know whether the other side understands something new; an added field or call alone does not raise it.
 */
export const protocolVersion = 1;

/** The oldest version of the worker wire that this version speaks: that of the previous release. */
export const minProtocolVersion = 1;

/** The name in the certificate of every node of a fleet. Nodes are reached by address, so no name of a host is in it. */
export const nodeName = "node.fleet.opensandbox.internal";

/** Largest message of the worker wire in bytes, which bounds the memory that a peer can make this side allocate. */
export const maxMessageBytes = 16 * 2 ** 20;

/** Pieces of contents are split into messages of at most this many bytes, so that streams of one connection take turns. */
export const maxPieceBytes = 256 * 2 ** 10;

/**
 * Bytes that a peer may send on one stream before its reader takes them (the flow control window of HTTP/2). It bounds
 * the memory of a stream whose reader stalls. At a round trip of 1 ms it allows 1 GB/s.
 */
export const streamWindowBytes = 2 ** 20;

/** Splits pieces that are too long for one message. */
export async function* inPieces(pieces: AsyncIterable<Uint8Array> | readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  for await (const piece of pieces) {
    for (let start = 0; start < piece.length; start += maxPieceBytes) {
      yield piece.subarray(start, start + maxPieceBytes);
    }
  }
}
