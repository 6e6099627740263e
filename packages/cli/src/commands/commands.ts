import type { Commands } from "../command.ts";
import { admin } from "./admin/admin.ts";
import { audit } from "./audit.ts";
import { agent } from "./agent/agent.ts";
import { azure } from "./azure/azure.ts";
import { bench } from "./server/bench.ts";
import { checkpoint } from "./checkpoint/checkpoint.ts";
import { completionOf } from "./completion/completion.ts";
import { config } from "./config/config.ts";
import { cp } from "./sandbox/cp.ts";
import { create } from "./sandbox/create.ts";
import { doctor } from "./server/doctor.ts";
import { events } from "./events/events.ts";
import { exec } from "./exec/exec.ts";
import { fleet } from "./fleet/fleet.ts";
import { fork } from "./sandbox/fork.ts";
import { forward } from "./forward/forward.ts";
import { gc } from "./server/gc.ts";
import { get } from "./sandbox/get.ts";
import { help } from "./help.ts";
import { hibernate } from "./sandbox/hibernate.ts";
import { host } from "./host/host.ts";
import { image } from "./image/image.ts";
import { kill } from "./sandbox/kill.ts";
import { logs } from "./sandbox/logs.ts";
import { ls } from "./sandbox/ls.ts";
import { mcp } from "./mcp/mcp.ts";
import { network } from "./network/network.ts";
import { pool } from "./server/pool.ts";
import { preview } from "./preview/preview.ts";
import { reboot } from "./sandbox/reboot.ts";
import { restore } from "./sandbox/restore.ts";
import { run } from "./exec/run.ts";
import { env } from "./sandbox/env.ts";
import { autoscale } from "./sandbox/autoscale.ts";
import { scale } from "./sandbox/scale.ts";
import { secret } from "./secret/secret.ts";
import { session } from "./session/session.ts";
import { shell } from "./exec/shell.ts";
import { snapshot } from "./snapshot/snapshot.ts";
import { ssh } from "./ssh/ssh.ts";
import { sshKey } from "./ssh/ssh-key.ts";
import { template } from "./template/template.ts";
import { timeout } from "./sandbox/timeout.ts";
import { up } from "./server/up.ts";
import { upgrade } from "./upgrade/upgrade.ts";
import { usage } from "./usage/usage.ts";
import { version } from "./version.ts";
import { wake } from "./sandbox/wake.ts";
import { webhook } from "./webhook/webhook.ts";
import { worker } from "./fleet/worker.ts";

/** Every command, in the order of help. */
export const commands: Commands = {
  run,
  up,
  create,
  ls,
  get,
  exec,
  shell,
  session,
  agent,
  mcp,
  logs,
  cp,
  preview,
  forward,
  ssh,
  "ssh-key": sshKey,
  network,
  events,
  webhook,
  secret,
  usage,
  kill,
  timeout,
  hibernate,
  wake,
  checkpoint,
  restore,
  fork,
  reboot,
  scale,
  autoscale,
  env,
  snapshot,
  template,
  image,
  pool,
  gc,
  doctor,
  host,
  upgrade,
  azure,
  admin,
  audit,
  fleet,
  worker,
  bench,
  config,
  completion: completionOf(() => commands),
  version,
  help,
};
