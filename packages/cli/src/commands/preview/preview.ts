import { defineGroup } from "../../command.ts";
import { create } from "./create.ts";
import { deletePreview } from "./delete.ts";
import { list } from "./list.ts";

export const preview = defineGroup({
  summary: "Serve ports of sandboxes under public host names",
  commands: { create, list, delete: deletePreview },
});
