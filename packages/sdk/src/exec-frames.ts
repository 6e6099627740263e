/**
 * The binary frames of an exec stream: one byte that says what it is, then the payload.
 * The ids of output and exit are those of the exec sessions of the public wire.
 */
export const serverFrame = { stdout: 0x01, stderr: 0x02, exit: 0x03 } as const;
export const clientFrame = { stdin: 0x00, endOfStdin: 0x05, signal: 0x06 } as const;

export function stdinFrame(bytes: Uint8Array): Uint8Array {
  const frame = new Uint8Array(bytes.length + 1);
  frame[0] = clientFrame.stdin;
  frame.set(bytes, 1);
  return frame;
}

export function endOfStdinFrame(): Uint8Array {
  return Uint8Array.of(clientFrame.endOfStdin);
}

export function signalFrame(signal: number): Uint8Array {
  return Uint8Array.of(clientFrame.signal, signal);
}

export type ServerFrame =
  | { readonly kind: "stdout" | "stderr"; readonly bytes: Uint8Array }
  | { readonly kind: "exit"; readonly exitCode: number }
  | { readonly kind: "unknown"; readonly id: number | undefined };

export function parseServerFrame(frame: Uint8Array): ServerFrame {
  const id = frame[0];
  if (id === serverFrame.stdout) return { kind: "stdout", bytes: frame.subarray(1) };
  if (id === serverFrame.stderr) return { kind: "stderr", bytes: frame.subarray(1) };
  if (id === serverFrame.exit && frame.length === 5) {
    return { kind: "exit", exitCode: new DataView(frame.buffer, frame.byteOffset).getInt32(1) };
  }
  return { kind: "unknown", id };
}
