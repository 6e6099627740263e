import { describeError } from "@opensandbox/wire/errors.ts";
import type { Log } from "../log.ts";

/**
 * Runs what one connection has caused. An exception, thrown at once or later, is a defect of this server: it is logged
 * with its stack and closes that connection. It never reaches the process, which would end every other connection.
 */
export function withinConnection(connection: { destroy(): unknown }, log: Log, work: () => unknown): void {
  const fail = (error: unknown): void => {
    log("error", "defect: an exception in a connection's handler; the connection is closed", describeError(error));
    connection.destroy();
  };
  try {
    const result = work();
    if (result instanceof Promise) result.catch(fail);
  } catch (error) {
    fail(error);
  }
}
