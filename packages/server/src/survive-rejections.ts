import { describeError } from "@opensandbox/wire/errors.ts";
import { log } from "./log.ts";

/**
 * A rejection that nothing handles is a defect in one request: it is logged with its stack, and the server goes on. As a
 * promise settles after the code that made it, no state is left half changed.
 */
export function surviveRejections(): Disposable {
  const report = (reason: unknown): void => {
    log("error", "defect: unhandled rejection; the server goes on", describeError(reason));
  };
  process.on("unhandledRejection", report);
  return { [Symbol.dispose]: () => process.off("unhandledRejection", report) };
}
