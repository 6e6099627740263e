import { SandboxError } from "../errors.ts";

/** The parts of the API that a key may use, each to read or to write. */
const areas = ["sandboxes", "images", "secrets", "admin"] as const;

/** The permission to use an area of the API. `write` includes `read`. */
export type Scope = `${(typeof areas)[number]}:${"read" | "write"}`;

/** The scopes of an administrator. */
export const allScopes: readonly Scope[] = areas.map((area) => `${area}:write` as const);

/** Whether a key with these scopes may make a call that needs `scope`. */
export function grants(scopes: readonly Scope[], scope: Scope): boolean {
  return scopes.includes(scope) || scopes.includes(scope.replace(":read", ":write") as Scope);
}

/** Reads scopes as people write them: `sandboxes` alone means `sandboxes:write`. @throws `invalid_argument` */
export function parseScopes(words: readonly string[]): readonly Scope[] {
  const scopes = words.map((word) => {
    const [area = "", access = "write", ...rest] = word.split(":");
    const known = areas.find((each) => each === area);
    if (known !== undefined && (access === "read" || access === "write") && rest.length === 0) {
      return `${known}:${access}` as const;
    }
    throw new SandboxError(
      "invalid_argument",
      `"${word}" is not a scope: write one of ${areas.join(", ")}, followed by :read or :write`,
    );
  });
  if (scopes.length === 0) throw new SandboxError("invalid_argument", "a key needs at least one scope");
  return [...new Set(scopes)].toSorted();
}

/**
 * The scope of each route that needs a key, by the route's name. A route without an entry is refused, so a new one
 * begins here. Creating a signed download URL counts as reading, since the URL grants no more than the key can read.
 */
export const routeScopes: Readonly<Record<string, Scope>> = {
  createSandbox: "sandboxes:write",
  listSandboxes: "sandboxes:read",
  listPastSandboxes: "sandboxes:read",
  getSandbox: "sandboxes:read",
  refreshSandboxToken: "sandboxes:read",
  deleteSandbox: "sandboxes:write",
  setIdleTimeout: "sandboxes:write",
  changeEnvironment: "sandboxes:write",
  hibernateSandbox: "sandboxes:write",
  wakeSandbox: "sandboxes:write",
  migrateSandbox: "admin:write",
  rebootSandbox: "sandboxes:write",
  powerCycleSandbox: "sandboxes:write",
  getTags: "sandboxes:read",
  setTags: "sandboxes:write",
  listTagKeys: "sandboxes:read",
  scaleSandbox: "sandboxes:write",
  setLimits: "sandboxes:write",
  setAutoscale: "sandboxes:write",
  getAutoscale: "sandboxes:read",
  setScalingLock: "sandboxes:write",
  getScalingLock: "sandboxes:read",
  getAllowedHosts: "sandboxes:read",
  getNetwork: "sandboxes:read",
  setNetwork: "sandboxes:write",
  getNetworkLog: "sandboxes:read",
  createPreview: "sandboxes:write",
  listPreviews: "sandboxes:read",
  deletePreview: "sandboxes:write",
  rotatePreviewToken: "sandboxes:write",
  createCheckpoint: "sandboxes:write",
  listCheckpoints: "sandboxes:read",
  getCheckpoint: "sandboxes:read",
  deleteCheckpoint: "sandboxes:write",
  restoreCheckpoint: "sandboxes:write",
  forkCheckpoint: "sandboxes:write",
  listAllCheckpoints: "sandboxes:read",
  publishCheckpoint: "sandboxes:write",
  unpublishCheckpoint: "sandboxes:write",
  createCheckpointPatch: "sandboxes:write",
  listCheckpointPatches: "sandboxes:read",
  deleteCheckpointPatch: "sandboxes:write",
  createSnapshot: "images:write",
  listSnapshots: "images:read",
  getSnapshot: "images:read",
  deleteSnapshot: "images:write",
  createSnapshotPatch: "images:write",
  listSnapshotPatches: "images:read",
  deleteSnapshotPatch: "images:write",
  listImages: "images:read",
  deleteImage: "images:write",
  pruneImages: "images:write",
  createImagePatch: "images:write",
  listImagePatches: "images:read",
  deleteImagePatch: "images:write",
  publishSnapshot: "images:write",
  unpublishSnapshot: "images:write",
  publishImage: "images:write",
  unpublishImage: "images:write",
  createTemplate: "images:write",
  listTemplates: "images:read",
  getTemplate: "images:read",
  deleteTemplate: "images:write",
  getTemplateBuild: "images:read",
  publishTemplate: "images:write",
  unpublishTemplate: "images:write",
  run: "sandboxes:write",
  runAsync: "sandboxes:write",
  getExecResult: "sandboxes:read",
  streamExec: "sandboxes:write",
  startSession: "sandboxes:write",
  listSessions: "sandboxes:read",
  attachSession: "sandboxes:write",
  killSession: "sandboxes:write",
  startTerminal: "sandboxes:write",
  attachTerminal: "sandboxes:write",
  resizeTerminal: "sandboxes:write",
  closeTerminal: "sandboxes:write",
  startAgent: "sandboxes:write",
  listAgents: "sandboxes:read",
  getAgent: "sandboxes:read",
  promptAgent: "sandboxes:write",
  interruptAgent: "sandboxes:write",
  killAgent: "sandboxes:write",
  readFile: "sandboxes:read",
  headFile: "sandboxes:read",
  writeFile: "sandboxes:write",
  setFileAttributes: "sandboxes:write",
  statFile: "sandboxes:read",
  listDirectory: "sandboxes:read",
  makeDirectory: "sandboxes:write",
  renameFile: "sandboxes:write",
  removeFile: "sandboxes:write",
  watchFiles: "sandboxes:read",
  signDownload: "sandboxes:read",
  signUpload: "sandboxes:write",
  openPort: "sandboxes:write",
  getConsole: "sandboxes:read",
  getLogs: "sandboxes:read",
  getReadyMachines: "sandboxes:read",
  listAuditEntries: "admin:read",
  listWorkers: "admin:read",
  createToken: "sandboxes:read",
  getSshGateway: "sandboxes:read",
  listApiKeys: "admin:read",
  createApiKey: "admin:write",
  revokeApiKey: "admin:write",
  addSshKey: "admin:write",
  listSshKeys: "admin:read",
  removeSshKey: "admin:write",
  getUsage: "admin:read",
  getSandboxUsage: "sandboxes:read",
  listEvents: "sandboxes:read",
  createWebhook: "admin:write",
  listWebhooks: "admin:read",
  getWebhook: "admin:read",
  updateWebhook: "admin:write",
  deleteWebhook: "admin:write",
  getWebhookSecret: "admin:write",
  testWebhook: "admin:write",
  listDeliveries: "admin:read",
  getDelivery: "admin:read",
  redeliver: "admin:write",
  createSecretStore: "secrets:write",
  listSecretStores: "secrets:read",
  getSecretStore: "secrets:read",
  updateSecretStore: "secrets:write",
  deleteSecretStore: "secrets:write",
  listSecrets: "secrets:read",
  setSecret: "secrets:write",
  deleteSecret: "secrets:write",
};
