import { Sandbox } from "@opensandbox/sdk";

await using sandbox = await Sandbox.create();
await sandbox.files.write("notes/today.txt", "bread, milk\n");
console.log((await sandbox.files.readText("notes/today.txt")).trim());
console.log((await sandbox.files.list("notes")).map(({ name, size }) => `${name} ${size}`).join());
await sandbox.files.rename("notes/today.txt", "notes/yesterday.txt");
console.log(await sandbox.files.exists("notes/today.txt"), await sandbox.files.exists("notes/yesterday.txt"));
