import { isSandboxError, Sandbox } from "@opensandbox/sdk";

await using sandbox = await Sandbox.create();
try {
  await sandbox.files.readText("/no/such/file");
} catch (error) {
  if (isSandboxError(error, "not_found")) console.log(error.code);
  else throw error;
}
try {
  await sandbox.exec.run("sleep 100", { signal: AbortSignal.timeout(200) });
} catch (error) {
  console.log(isSandboxError(error) ? error.code : error);
}
