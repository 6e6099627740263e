import { defineGroup } from "../../command.ts";
import { create } from "./create.ts";
import { deploy } from "./deploy.ts";
import { destroy } from "./destroy.ts";
import { fleet } from "./fleet/fleet.ts";
import { image } from "./fleet/image.ts";
import { logs } from "./logs.ts";
import { ssh } from "./ssh.ts";
import { status } from "./status.ts";
import { upgrade } from "./upgrade.ts";

export const azure = defineGroup({
  summary: "Create and manage a host or a fleet on Azure",
  commands: { create, deploy, status, ssh, logs, upgrade, image, fleet, destroy },
});
