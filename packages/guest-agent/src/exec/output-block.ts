/** A stretch of what a command wrote to one of its pipes. Its header would begin at `at` in a file of all blocks. */
export interface Block {
  readonly pipe: number;
  readonly at: number;
  /** May be longer than what is in it. */
  bytes: Buffer;
  length: number;
}

/** What stands in front of a block in a file: its length and its pipe. */
export const blockHeaderBytes = 5;

/** Where the next block begins. */
export function endOf(block: Block): number {
  return block.at + blockHeaderBytes + block.length;
}

/** Blocks that follow each other, as they are in a file. */
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

/** The first block of `bytes`, which may go on behind it. */
export function parseBlock(bytes: Buffer, at: number): Block {
  const length = bytes.readUInt32LE(0);
  const pipe = bytes.readUInt8(4);
  return { pipe, at, bytes: bytes.subarray(blockHeaderBytes, blockHeaderBytes + length), length };
}
