import type { DescMessage } from "@bufbuild/protobuf";
import {
  ConfigureRequestSchema,
  ConnectRequestSchema,
  ConnectVsockRequestSchema,
  EmptySchema,
  FileStatSchema,
  FreezeReplySchema,
  MakeDirectoryRequestSchema,
  MemoryReplySchema,
  PathRequestSchema,
  PingReplySchema,
  ReadFileRequestSchema,
  RenameRequestSchema,
  ReshapeReplySchema,
  ReshapeRequestSchema,
  SessionAttachRequestSchema,
  SessionCreateRequestSchema,
  SessionInfoSchema,
  SessionRequestSchema,
  SessionResizeRequestSchema,
  SessionSignalRequestSchema,
  SessionWaitRequestSchema,
  SetAttributesRequestSchema,
  WatchRequestSchema,
  WriteFileReplySchema,
  WriteFileRequestSchema,
} from "./messages_pb.js";

/**
 * The closed list of what a worker may ask of a guest agent. `open` frames carry the id, which is never used again:
 * 3 (a command without a session) and 11 (shutdown) were methods of earlier agents.
 *
 * Frames that cross a stream between the request and the reply:
 * - `readFile`: guest -> host `message` FileStat once, then `data`.
 * - `writeFile`: host -> guest `data`, ended by `end`. Nothing is visible at the path before the end.
 * - `list`: guest -> host `message` FileStats, several.
 * - `sessionAttach`, and `sessionCreate` with `attach`: guest -> host `message` SessionEvent with `attached`, `data` with
 *   the tags of {@link execPipes}, and between them SessionEvent with `scrollbackEnd`. The reply comes when the command has
 *   ended and all of its output has been sent; it need not repeat what `attached` carried. A command that ends while it is
 *   created needs no messages. Host -> guest `data` (standard input) and `end`, which closes it. A host that resets the
 *   stream detaches, and the command runs on.
 * - `sessionList`: guest -> host `message` SessionInfos, several.
 * - `watch`: guest -> host `message` WatchEvents, the first one empty once every further change is reported; it ends when
 *   the host resets it.
 * - `connect`: guest -> host `message` Empty once the connection is established, then `data`; host -> guest `data`, ended
 *   by `end`. The reply comes when the server has ended its side.
 */
export const methods = {
  ping: method(1, EmptySchema, PingReplySchema),
  configure: method(2, ConfigureRequestSchema, EmptySchema),
  readFile: method(4, ReadFileRequestSchema, EmptySchema),
  writeFile: method(5, WriteFileRequestSchema, WriteFileReplySchema),
  stat: method(6, PathRequestSchema, FileStatSchema),
  list: method(7, PathRequestSchema, EmptySchema),
  makeDirectory: method(8, MakeDirectoryRequestSchema, EmptySchema),
  remove: method(9, PathRequestSchema, EmptySchema),
  sync: method(10, EmptySchema, EmptySchema),
  /**
   * Flushes the file systems on disks and freezes them. The freeze ends by itself after a time, since a guest that has
   * lost its host must not stay frozen.
   */
  freeze: method(22, EmptySchema, FreezeReplySchema),
  /** Does nothing when nothing is frozen. */
  thaw: method(23, EmptySchema, EmptySchema),
  sessionCreate: method(12, SessionCreateRequestSchema, SessionInfoSchema),
  sessionAttach: method(13, SessionAttachRequestSchema, SessionInfoSchema),
  sessionList: method(14, EmptySchema, EmptySchema),
  /** Signals the process group of the command. */
  sessionSignal: method(15, SessionSignalRequestSchema, EmptySchema),
  sessionResize: method(16, SessionResizeRequestSchema, EmptySchema),
  /** Replies when the command has ended or the time has passed. */
  sessionWait: method(17, SessionWaitRequestSchema, SessionInfoSchema),
  /** Kills the command and everything it has started, and forgets the session. */
  sessionRemove: method(18, SessionRequestSchema, EmptySchema),
  rename: method(19, RenameRequestSchema, EmptySchema),
  setAttributes: method(20, SetAttributesRequestSchema, FileStatSchema),
  watch: method(21, WatchRequestSchema, EmptySchema),
  connect: method(24, ConnectRequestSchema, EmptySchema),
  /** Adapts the memory limit of commands to the memory that the machine has now. */
  fitMemory: method(25, EmptySchema, MemoryReplySchema),
  /** Brings the guest to another shape while it runs. Repeating it does no harm. */
  reshape: method(26, ReshapeRequestSchema, ReshapeReplySchema),
  /**
   * Opens another connection to the host, by vsock, and serves the host there as well. It replaces the one of an earlier
   * call. Replies when the host has proved itself on it; `not_supported` without vsock.
   */
  connectVsock: method(27, ConnectVsockRequestSchema, EmptySchema),
} as const;

export type MethodName = keyof typeof methods;

export interface Method<Request extends DescMessage = DescMessage, Reply extends DescMessage = DescMessage> {
  readonly id: number;
  readonly request: Request;
  readonly reply: Reply;
}

/** Tags of the `data` frames that carry the output of a command. */
export const execPipes = { stdout: 1, stderr: 2 } as const;

/**
 * What one side can do, as one number; both sides act on the lower one. It rises with a method or field that the other
 * side must know. From 2 on an agent takes a MAC address, from 3 on a shape, from 4 on both at once, from 5 on it
 * connects by vsock, and from 6 on it takes a certificate authority.
 */
export const protocolVersion = 6;

function method<Request extends DescMessage, Reply extends DescMessage>(
  id: number,
  request: Request,
  reply: Reply,
): Method<Request, Reply> {
  return { id, request, reply };
}
