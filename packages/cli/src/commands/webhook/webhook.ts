import { defineGroup } from "../../command.ts";
import { create } from "./create.ts";
import { deliveries } from "./deliveries.ts";
import { get } from "./get.ts";
import { list } from "./list.ts";
import { redeliver } from "./redeliver.ts";
import { rm } from "./rm.ts";
import { test } from "./test.ts";
import { update } from "./update.ts";

export const webhook = defineGroup({
  summary: "Send events of sandboxes to URLs",
  commands: { create, list, get, update, rm, test, deliveries, redeliver },
});
