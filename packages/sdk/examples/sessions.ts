import { Sandbox } from "@opensandbox/sdk";

await using sandbox = await Sandbox.create();
const { id } = await sandbox.execSessions.start("echo begun; read word; echo heard $word; exit 5");
const session = await sandbox.execSessions.attach(id);
await session.write(new TextEncoder().encode("a word\n"));
let heard = "";
for await (const { bytes } of session.output) heard += new TextDecoder().decode(bytes);
console.log(heard.trim().split("\n").join(", "), await session.exitCode);
