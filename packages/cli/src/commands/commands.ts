import type { Commands } from "../command.ts";
import { config } from "./config/config.ts";
import { cp } from "./cp.ts";
import { create } from "./create.ts";
import { doctor } from "./doctor.ts";
import { exec } from "./exec.ts";
import { get } from "./get.ts";
import { help } from "./help.ts";
import { image } from "./image/image.ts";
import { kill } from "./kill.ts";
import { ls } from "./ls.ts";
import { run } from "./run.ts";
import { timeout } from "./timeout.ts";
import { up } from "./up.ts";
import { version } from "./version.ts";

/** Every command, in the order of help. */
export const commands: Commands = {
  run,
  up,
  create,
  ls,
  get,
  exec,
  cp,
  kill,
  timeout,
  image,
  doctor,
  config,
  version,
  help,
};
