import { Sandbox } from "@opensandbox/sdk";

await using sandbox = await Sandbox.create();
await sandbox.exec.run("echo kept > /dev/shm/in-memory");
await sandbox.hibernate();
// Any call wakes the sandbox, with its memory and its processes.
console.log((await sandbox.exec.run("cat /dev/shm/in-memory")).stdout.trim());

await using fork = await sandbox.fork();
await fork.exec.run("echo changed > /dev/shm/in-memory");
console.log((await sandbox.exec.run("cat /dev/shm/in-memory")).stdout.trim());

const checkpoint = await sandbox.checkpoints.create({ name: "good" });
await sandbox.exec.run("rm /dev/shm/in-memory");
await sandbox.checkpoints.restore(checkpoint.id);
console.log((await sandbox.exec.run("cat /dev/shm/in-memory")).stdout.trim());
