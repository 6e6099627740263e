import type { Route } from "../route.ts";
import {
  createCheckpoint,
  deleteCheckpoint,
  forkCheckpoint,
  getCheckpoint,
  listAllCheckpoints,
  listCheckpoints,
  publishCheckpoint,
  restoreCheckpoint,
  unpublishCheckpoint,
} from "./checkpoints.ts";
import {
  attachSession,
  attachTerminal,
  closeTerminal,
  killSession,
  listSessions,
  resizeTerminal,
  startSession,
  startTerminal,
} from "./exec-sessions.ts";
import { getExecResult, run, runAsync, streamExec } from "./execs.ts";
import { listDirectory, makeDirectory, readFile, removeFile, writeFile } from "./files.ts";
import { alive, health, openApi, ready } from "./health.ts";
import { hibernateSandbox, powerCycleSandbox, rebootSandbox, wakeSandbox } from "./lifecycle.ts";
import { checkpointPatches } from "./patches.ts";
import { createSandbox, deleteSandbox, getSandbox, listSandboxes, setIdleTimeout } from "./sandboxes.ts";

/** All that the control plane answers, in the order of the documentation. */
export const publicRoutes = [
  createSandbox,
  listSandboxes,
  getSandbox,
  deleteSandbox,
  setIdleTimeout,
  hibernateSandbox,
  wakeSandbox,
  rebootSandbox,
  powerCycleSandbox,
  createCheckpoint,
  listCheckpoints,
  getCheckpoint,
  deleteCheckpoint,
  restoreCheckpoint,
  forkCheckpoint,
  listAllCheckpoints,
  publishCheckpoint,
  unpublishCheckpoint,
  checkpointPatches.create,
  checkpointPatches.list,
  checkpointPatches.remove,
  run,
  runAsync,
  getExecResult,
  streamExec,
  startSession,
  listSessions,
  attachSession,
  killSession,
  startTerminal,
  attachTerminal,
  resizeTerminal,
  closeTerminal,
  readFile,
  writeFile,
  listDirectory,
  makeDirectory,
  removeFile,
  health,
  alive,
  ready,
  openApi,
] as readonly Route[];
