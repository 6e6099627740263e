import { openSync, writeSync } from "node:fs";

/**
 * Spares the agent when memory runs out, but nothing that it starts: a child inherits the score and could not be told
 * another one before it runs. So the agent takes the ordinary one for the moment of starting.
 */
export function spareAgent(): <Result>(start: () => Result) => Result {
  const score = openSync("/proc/self/oom_score_adj", "r+");
  const spared = Buffer.from("-1000");
  const ordinary = Buffer.from("0");
  writeSync(score, spared, 0, spared.length, 0);
  return (start) => {
    writeSync(score, ordinary, 0, ordinary.length, 0);
    try {
      return start();
    } finally {
      writeSync(score, spared, 0, spared.length, 0);
    }
  };
}
