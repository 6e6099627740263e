import { defineGroup } from "../../command.ts";
import { log } from "./log.ts";
import { set } from "./set.ts";
import { show } from "./show.ts";

export const network = defineGroup({
  summary: "Control which destinations a sandbox may reach",
  commands: { show, set, log },
});
