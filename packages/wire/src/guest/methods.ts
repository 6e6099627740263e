import type { DescMessage } from "@bufbuild/protobuf";
import {
  ConfigureRequestSchema,
  ConnectRequestSchema,
  EmptySchema,
  FileStatSchema,
  FreezeReplySchema,
  MakeDirectoryRequestSchema,
  MemoryReplySchema,
  PathRequestSchema,
  PingReplySchema,
  ReadFileRequestSchema,
  RenameRequestSchema,
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
 * What crosses a stream between the request and the reply:
 * - `readFile`: guest -> host `message` FileStat once, then `data`.
 * - `writeFile`: host -> guest `data`, ended by `end`. Nothing is visible at the path before that.
 * - `list`: guest -> host `message` FileStats, several.
 * - `sessionAttach`, and `sessionCreate` that asks for it: guest -> host `message` SessionEvent with `attached`, `data`
 *   with the tags of {@link execPipes}, and between them SessionEvent with `scrollbackEnd`; the reply, which need not say
 *   again what `attached` did, comes when the command has ended and all of its output has been sent. A command that has
 *   ended while it was created needs no messages. Host -> guest `data` (standard input) and `end`, which closes it. A
 *   host that resets the stream detaches: the command goes on.
 * - `sessionList`: guest -> host `message` SessionInfos, several.
 * - `watch`: guest -> host `message` WatchEvents, an empty one first, when nothing is missed any more; it ends when the
 *   host resets it.
 * - `connect`: guest -> host `message` Empty once, when the connection is there, then `data`; host -> guest `data`, ended
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
   * Writes everything to the disks and holds back all that would be written from then on. It ends by itself when
   * nobody thaws: a guest whose host has gone must not stand still for ever.
   */
  freeze: method(22, EmptySchema, FreezeReplySchema),
  /** Thawing what is not frozen does nothing. */
  thaw: method(23, EmptySchema, EmptySchema),
  sessionCreate: method(12, SessionCreateRequestSchema, SessionInfoSchema),
  sessionAttach: method(13, SessionAttachRequestSchema, SessionInfoSchema),
  sessionList: method(14, EmptySchema, EmptySchema),
  /** To the command's process group. */
  sessionSignal: method(15, SessionSignalRequestSchema, EmptySchema),
  sessionResize: method(16, SessionResizeRequestSchema, EmptySchema),
  /** Replies when the command has ended or the time is over. */
  sessionWait: method(17, SessionWaitRequestSchema, SessionInfoSchema),
  /** Kills what is left of it and forgets it. */
  sessionRemove: method(18, SessionRequestSchema, EmptySchema),
  rename: method(19, RenameRequestSchema, EmptySchema),
  setAttributes: method(20, SetAttributesRequestSchema, FileStatSchema),
  watch: method(21, WatchRequestSchema, EmptySchema),
  connect: method(24, ConnectRequestSchema, EmptySchema),
  /** Commands may have most of what memory the machine has now, which may have become more or less. */
  fitMemory: method(25, EmptySchema, MemoryReplySchema),
} as const;

export type MethodName = keyof typeof methods;

export interface Method<Request extends DescMessage = DescMessage, Reply extends DescMessage = DescMessage> {
  readonly id: number;
  readonly request: Request;
  readonly reply: Reply;
}

/** The tags of `data` frames that an exec's output comes in. */
export const execPipes = { stdout: 1, stderr: 2 } as const;

/**
 * What one side can do, as one number; both act on the lower one of the two. Raised when a method or a field is added
 * that the other side has to know of. From 2 on an agent takes a MAC address.
 */
export const protocolVersion = 2;

function method<Request extends DescMessage, Reply extends DescMessage>(
  id: number,
  request: Request,
  reply: Reply,
): Method<Request, Reply> {
  return { id, request, reply };
}
