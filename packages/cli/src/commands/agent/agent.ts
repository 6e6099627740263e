import { defineGroup } from "../../command.ts";
import { attach } from "./attach.ts";
import { interrupt } from "./interrupt.ts";
import { kill } from "./kill.ts";
import { ls } from "./ls.ts";
import { prompt } from "./prompt.ts";
import { run } from "./run.ts";
import { start } from "./start.ts";

export const agent = defineGroup({
  summary: "Run AI agents, which ask a model and use tools in a sandbox",
  commands: { run, start, ls, attach, prompt, interrupt, kill },
});
