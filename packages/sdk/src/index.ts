export { connect } from "./client.ts";
export type { Client, ConnectOptions } from "./client.ts";
export type { ExecOutput, ExecRequest, ExecResult, ExecStream } from "./exec.ts";
export type { FileEntry, OpenFile, WriteOptions } from "./files.ts";
export type { CreateOptions, CreateSandbox, Sandbox } from "./sandboxes.ts";
export type { OpenSocket, Socket } from "./socket.ts";
export { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
export type { ErrorCode } from "@opensandbox/wire/errors.ts";
