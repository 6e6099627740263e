import { defineGroup } from "../../command.ts";
import { attach } from "./attach.ts";
import { kill } from "./kill.ts";
import { ls } from "./ls.ts";
import { logs } from "./logs.ts";
import { start } from "./start.ts";

export const session = defineGroup({
  summary: "Commands that run on by themselves: start, list, hear and end them",
  commands: { start, ls, logs, attach, kill },
});
