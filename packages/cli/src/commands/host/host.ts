import { defineGroup } from "../../command.ts";
import { certificate } from "./acme/certificate.ts";
import { check } from "./check.ts";
import { remove } from "./remove.ts";
import { setup } from "./setup.ts";

export const host = defineGroup({
  summary: "Set this host up as a server that starts at boot",
  commands: { setup, check, remove, certificate },
});
