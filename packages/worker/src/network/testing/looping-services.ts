// The guest-facing services, which loop for ever on SIGUSR2.
process.on("SIGUSR2", () => {
  for (;;);
});
await import("../services/main.ts");
