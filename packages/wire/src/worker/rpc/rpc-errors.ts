import { Code, ConnectError } from "@connectrpc/connect";
import { type ErrorCode, errorFromWire, errorToWire, asSandboxError, SandboxError } from "../../errors.ts";
import { FailureSchema } from "./worker_pb.js";

/** The status of Connect for each code. The code itself travels as a detail, because several codes share a status. */
const statuses: Readonly<Record<ErrorCode, Code>> = {
  invalid_argument: Code.InvalidArgument,
  unauthenticated: Code.Unauthenticated,
  permission_denied: Code.PermissionDenied,
  not_found: Code.NotFound,
  already_exists: Code.AlreadyExists,
  wrong_state: Code.FailedPrecondition,
  incompatible: Code.FailedPrecondition,
  gone: Code.NotFound,
  quota_exceeded: Code.ResourceExhausted,
  canceled: Code.Canceled,
  internal: Code.Internal,
  not_supported: Code.Unimplemented,
  no_capacity: Code.ResourceExhausted,
  unavailable: Code.Unavailable,
  timed_out: Code.DeadlineExceeded,
};

/** The error that a handler throws, with code and details of the original. */
export function toConnectError(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  const { code, message, details } = errorToWire(asSandboxError(error));
  const failure = { code, message, detailsJson: details === undefined ? "" : JSON.stringify(details) };
  return new ConnectError(message, statuses[code], undefined, [{ desc: FailureSchema, value: failure }], error);
}

/**
 * The error of a call, as the in-process call would have thrown it. An error without the peer's detail comes from the
 * connection and becomes `unavailable`.
 * @param peer names the other side in messages, such as `worker wk-1`
 */
export function fromConnectError(error: unknown, peer: string): SandboxError {
  if (!(error instanceof ConnectError)) return asSandboxError(error);
  const [failure] = error.findDetails(FailureSchema);
  if (failure !== undefined) return errorFromWire({ ...failure, details: detailsOf(failure.detailsJson) });
  const options = { cause: error };
  if (error.code === Code.Unauthenticated) {
    return new SandboxError("unavailable", `${peer} refuses this fleet's token: ${error.rawMessage}`, options);
  }
  if (error.code === Code.Unimplemented) {
    return new SandboxError(
      "not_supported",
      `${peer} runs an older version that does not know this call: update it`,
      options,
    );
  }
  if (error.code === Code.DeadlineExceeded) {
    return new SandboxError("unavailable", `${peer} did not answer in time`, options);
  }
  return new SandboxError("unavailable", `the connection to ${peer} failed: ${error.rawMessage}`, options);
}

/** Undefined for text that is not JSON. A code that requires details then becomes `internal`. */
function detailsOf(json: string): unknown {
  if (json === "") return undefined;
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}
