import { Sandbox } from "@opensandbox/sdk";

await using sandbox = await Sandbox.create();
const terminal = await sandbox.pty.open({ command: ["sh"], columns: 100, rows: 30 });
await terminal.write(new TextEncoder().encode("stty size; exit 3\n"));
let screen = "";
for await (const bytes of terminal.output) screen += new TextDecoder().decode(bytes);
console.log(screen.includes("30 100"), await terminal.exitCode);
