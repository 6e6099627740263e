import { openSync, writeSync } from "node:fs";

/**
 * Exempts the agent from the OOM killer, but none of its children: a child inherits the score, so the agent takes the
 * default score while it starts one.
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
