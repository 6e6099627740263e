import { Sandbox } from "@opensandbox/sdk";

await using sandbox = await Sandbox.create();
const command = await sandbox.exec.stream(["sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.1; done; exit 4"]);
const text = new TextDecoder();
for await (const { pipe, bytes } of command.output) console.log(pipe, text.decode(bytes, { stream: true }).trim());
console.log("exit code", await command.exitCode);
