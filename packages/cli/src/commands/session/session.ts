import { defineGroup } from "../../command.ts";
import { attach } from "./attach.ts";
import { kill } from "./kill.ts";
import { ls } from "./ls.ts";
import { logs } from "./logs.ts";
import { start } from "./start.ts";

export const session = defineGroup({
  summary: "Manage exec sessions: commands that run without a client",
  commands: { start, ls, logs, attach, kill },
});
