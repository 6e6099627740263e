import { Sandbox } from "@opensandbox/sdk";

await using sandbox = await Sandbox.create();
await sandbox.code.run("total = 40");
const { text, stdout, error } = await sandbox.code.run("print('adding')\ntotal + 2");
console.log(text, stdout.trim(), error);
