import { defineGroup } from "../../command.ts";
import { log } from "./log.ts";
import { set } from "./set.ts";
import { show } from "./show.ts";

export const network = defineGroup({
  summary: "Say what sandboxes may reach",
  commands: { show, set, log },
});
