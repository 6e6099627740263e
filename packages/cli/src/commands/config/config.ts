import { defineGroup } from "../../command.ts";
import { set } from "./set.ts";
import { show } from "./show.ts";

export const config = defineGroup({
  summary: "Show or change the configuration",
  commands: { show, set },
  alone: show,
});
