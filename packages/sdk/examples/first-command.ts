import { Sandbox } from "@opensandbox/sdk";

await using sandbox = await Sandbox.create();
const { stdout, exitCode } = await sandbox.exec.run("python3 -c 'print(6 * 7)'");
console.log(stdout.trim(), exitCode);
