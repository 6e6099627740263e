import { z } from "zod";
import { errorCodes, type ErrorCode, type SandboxError } from "../errors.ts";

/** The body of every failure. */
export const ErrorReply = z
  .object({
    error: z.string().meta({ description: "What went wrong and what to do about it." }),
    code: z.enum(Object.keys(errorCodes) as [ErrorCode, ...ErrorCode[]]).optional(),
    retryable: z.boolean().optional().meta({ description: "The same call may succeed later, unchanged." }),
    details: z.unknown().optional().meta({ description: "Facts that the code defines." }),
    requestId: z.string().optional().meta({ description: "The id of the entry in the server's log." }),
  })
  .meta({ id: "ErrorReply" });
export type ErrorReply = z.infer<typeof ErrorReply>;

export function errorReplyOf(error: SandboxError): ErrorReply {
  const { message, code, details, retryable } = error;
  return { error: message, code, ...(retryable ? { retryable } : {}), ...(details === undefined ? {} : { details }) };
}
