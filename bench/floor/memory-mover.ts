import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

export interface Mapping {
  readonly pid: number;
  readonly start: number;
  readonly end: number;
}

/** The native program that copies a machine's dirty memory. It starts once; disposing it ends it. */
export interface MemoryMover extends Disposable {
  /**
   * `copied` resolves when the machine may resume, `stored` when the file is on disk. Both resolve with the number of
   * dirty bytes.
   */
  capture(memory: Mapping, file: string): { readonly copied: Promise<number>; readonly stored: Promise<number> };
  apply(memory: Mapping, file: string): Promise<number>;
}

export function startMemoryMover(program: string): MemoryMover {
  const child = spawn(program, [], { stdio: ["pipe", "pipe", "inherit"] });
  const expected: { readonly word: string; readonly answer: PromiseWithResolvers<number> }[] = [];
  child.stdin.on("error", () => undefined);
  createInterface({ input: child.stdout }).on("line", (line) => {
    const [word, bytes] = line.split(" ");
    const next = expected.shift();
    if (next?.word === word) next?.answer.resolve(Number(bytes));
    else next?.answer.reject(new Error(`the memory program says "${line}" for ${next.word}`));
  });
  child.once("close", () => {
    for (const { answer } of expected.splice(0)) answer.reject(new Error("the memory program has ended"));
  });
  const expect = (word: string): Promise<number> => {
    const answer = Promise.withResolvers<number>();
    answer.promise.catch(() => undefined);
    expected.push({ word, answer });
    return answer.promise;
  };
  return {
    capture({ pid, start, end }, file) {
      child.stdin.write(`capture ${pid} ${start} ${end} ${file}\n`);
      return { copied: expect("copied"), stored: expect("stored") };
    },
    async apply({ pid, start }, file) {
      child.stdin.write(`apply ${pid} ${start} ${file}\n`);
      return await expect("applied");
    },
    [Symbol.dispose]: () => void child.kill("SIGKILL"),
  };
}
