import { Sandbox } from "@opensandbox/sdk";

await using sandbox = await Sandbox.create();
const command = await sandbox.exec.stream("tr a-z A-Z", { stdin: true });
const input = new Blob(["through a web stream\n"]).stream().pipeTo(command.stdin);
for await (const line of command.stdout.pipeThrough(new TextDecoderStream())) console.log(line.trim());
await input;
