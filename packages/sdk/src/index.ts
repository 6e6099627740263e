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
export type {
  Agent,
  AgentEvent,
  AgentsClient,
  AgentSettings,
  AttachedAgent,
  McpServer,
  StartAgent,
} from "./clients/agents.ts";
export type { WorkerInfo, WorkersClient } from "./clients/organization/workers.ts";
export type { AuditClient, AuditEntry, AuditPage } from "./clients/organization/audit.ts";
export type {
  CodeContext,
  CodeError,
  CodeExecution,
  CodeLanguage,
  CodeOptions,
  CodeResult,
  SandboxCode,
} from "./code.ts";
export { connect } from "./client.ts";
export type { Client, ConnectOptions } from "./client.ts";
export type { ExecClient, ExecOutput, ExecRequest, ExecResult, ExecStream } from "./clients/exec.ts";
export type {
  FileAttributes,
  FileChange,
  FileEntry,
  FilesClient,
  OpenFile,
  ReadOptions,
  SignedUrl,
  StatOptions,
  WriteOptions,
} from "./clients/files.ts";
export type { BuiltImage, ImageRecipe, ImagesClient, ImageStep, PrunedImages } from "./clients/images.ts";
export type { SandboxTemplate, TemplateBuild, TemplateRecipe, TemplatesClient } from "./clients/templates/templates.ts";
export type {
  AutoscaleRange,
  CreateSandbox,
  ListOptions,
  PastOptions,
  ReadyMachines,
  ReadyTemplate,
  SandboxesClient,
  SandboxInfo,
} from "./clients/sandboxes.ts";
export type { ApiKey } from "./transport/http.ts";
export type { OpenSocket, Socket } from "./transport/socket.ts";
export { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
export type { ErrorCode } from "@opensandbox/wire/errors.ts";
export type { Checkpoint, CheckpointsClient, CreateCheckpoint, Fork } from "./clients/checkpoints.ts";
export type { AttachedSession, ExecSession, SessionsClient, StartSession, TerminalSize } from "./clients/sessions.ts";
export type { CreatePreview, DomainVerification, Preview, PreviewsClient } from "./clients/previews.ts";
export type { EventPage, EventsClient, EventSelection, FollowEvents, SandboxEvent } from "./clients/events.ts";
export type { CreateWebhook, UpdateWebhook, Webhook, WebhookDelivery, WebhooksClient } from "./clients/webhooks.ts";
export type { LogLine, LogsClient, LogSelection, LogSource } from "./clients/logs.ts";
export type { PortConnection, PortsClient } from "./clients/ports.ts";
export type { ApiKeysClient, NewApiKey, StoredApiKey } from "./clients/organization/api-keys.ts";
export type { SshClient, SshGateway, SshKey } from "./clients/organization/ssh.ts";
export type { Secret, SecretsClient, SecretSet, SecretStore } from "./clients/secrets.ts";
export type {
  SandboxUsage,
  TagUsage,
  UsageClient,
  UsageOverTime,
  UsagePage,
  UsageQuery,
  UsageTotals,
  UsageWindow,
} from "./clients/usage.ts";
export type { Egress, Network, NetworkClient, NetworkRefusal, SetNetwork } from "./clients/network.ts";
