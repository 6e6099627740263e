import { defineGroup } from "../../command.ts";
import { create } from "./create.ts";
import { deletePreview } from "./delete.ts";
import { list } from "./list.ts";

export const preview = defineGroup({
  summary: "Show servers in sandboxes to the world",
  commands: { create, list, delete: deletePreview },
});
