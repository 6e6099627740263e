import type { Commands } from "../command.ts";
import { agent } from "./agent/agent.ts";
import { bench } from "./bench.ts";
import { checkpoint } from "./checkpoint/checkpoint.ts";
import { completion } from "./completion/completion.ts";
import { config } from "./config/config.ts";
import { cp } from "./cp.ts";
import { create } from "./create.ts";
import { doctor } from "./doctor.ts";
import { exec } from "./exec.ts";
import { fork } from "./fork.ts";
import { get } from "./get.ts";
import { help } from "./help.ts";
import { hibernate } from "./hibernate.ts";
import { image } from "./image/image.ts";
import { kill } from "./kill.ts";
import { logs } from "./logs.ts";
import { ls } from "./ls.ts";
import { network } from "./network/network.ts";
import { pool } from "./pool.ts";
import { preview } from "./preview/preview.ts";
import { reboot } from "./reboot.ts";
import { restore } from "./restore.ts";
import { run } from "./run.ts";
import { scale } from "./scale.ts";
import { session } from "./session/session.ts";
import { shell } from "./shell.ts";
import { snapshot } from "./snapshot/snapshot.ts";
import { timeout } from "./timeout.ts";
import { up } from "./up.ts";
import { version } from "./version.ts";
import { wake } from "./wake.ts";

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
  logs,
  cp,
  preview,
  network,
  kill,
  timeout,
  hibernate,
  wake,
  checkpoint,
  restore,
  fork,
  reboot,
  scale,
  snapshot,
  image,
  pool,
  doctor,
  bench,
  config,
  completion,
  version,
  help,
};
