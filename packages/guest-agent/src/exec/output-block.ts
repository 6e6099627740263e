/** Consecutive output of one pipe. `at` is the offset of its header in a file of all blocks. */
export interface Block {
  readonly pipe: number;
  readonly at: number;
  /** A buffer whose first `length` bytes are filled. */
  bytes: Buffer;
  length: number;
}

/** The header of a block in a file: its length and its pipe. */
export const blockHeaderBytes = 5;

/** The offset of the next block. */
export function endOf(block: Block): number {
  return block.at + blockHeaderBytes + block.length;
}

/** Consecutive blocks in the format of the file. */
export function serialize(blocks: readonly Block[]): Buffer {
  return Buffer.concat(
    blocks.flatMap(({ pipe, bytes, length }) => {
      const header = Buffer.alloc(blockHeaderBytes);
      header.writeUInt32LE(length, 0);
      header.writeUInt8(pipe, 4);
      return [header, bytes.subarray(0, length)];
    }),
  );
}

/** The first block in `bytes`. */
export function parseBlock(bytes: Buffer, at: number): Block {
  const length = bytes.readUInt32LE(0);
  const pipe = bytes.readUInt8(4);
  return { pipe, at, bytes: bytes.subarray(blockHeaderBytes, blockHeaderBytes + length), length };
}
