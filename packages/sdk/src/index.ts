export { Sandbox } from "./sandbox.ts";
export type {
  Abortable,
  Command,
  CommandLine,
  CommandOptions,
  Connection,
  CreateOptions,
  SandboxAgents,
  SandboxCheckpoints,
  SandboxExec,
  SandboxFiles,
  SandboxNetwork,
  SandboxPreviews,
  SandboxPty,
  SandboxSessions,
  Terminal,
} from "./sandbox.ts";
export type { Agent, AgentEvent, AgentsClient, AgentSettings, AttachedAgent, McpServer, StartAgent } from "./agents.ts";
export { connect } from "./client.ts";
export type { Client, ConnectOptions } from "./client.ts";
export type { ExecClient, ExecOutput, ExecRequest, ExecResult, ExecStream } from "./exec.ts";
export type {
  FileAttributes,
  FileChange,
  FileEntry,
  FilesClient,
  OpenFile,
  ReadOptions,
  SignedUrl,
  WriteOptions,
} from "./files.ts";
export type { BuiltImage, ImageRecipe, ImagesClient, ImageStep } from "./images.ts";
export type { CreateSandbox, ListOptions, ReadyMachines, SandboxesClient, SandboxInfo } from "./sandboxes.ts";
export type { OpenSocket, Socket } from "./socket.ts";
export { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
export type { ErrorCode } from "@opensandbox/wire/errors.ts";
export type { Checkpoint, CheckpointsClient, CreateCheckpoint, Fork } from "./checkpoints.ts";
export type { AttachedSession, ExecSession, SessionsClient, StartSession, TerminalSize } from "./sessions.ts";
export type { CreatePreview, Preview, PreviewsClient } from "./previews.ts";
export type { Egress, Network, NetworkClient, NetworkRefusal, SetNetwork } from "./network.ts";
