import { runCommand } from "../../packages/worker/src/host/run-command.ts";

/** A namespace behind a link of this host, with one address on the internet. */
export async function startSite(address: string): Promise<AsyncDisposable & { readonly namespace: string }> {
  const [name, link] = ["osb-test-site", "osbsite0"];
  await runCommand("make a site", ["ip", "-batch", "-"], {
    input: `netns add ${name}
link add ${link} type veth peer name eth0 netns ${name}
addr add 203.0.113.1/24 dev ${link}
link set ${link} up
`,
  });
  await runCommand("make a site", ["ip", "-n", name, "-batch", "-"], {
    input: `link set lo up\naddr add ${address}/24 dev eth0\nlink set eth0 up\n`,
  });
  return {
    namespace: `/run/netns/${name}`,
    [Symbol.asyncDispose]: async () =>
      void (await runCommand("remove a site", ["ip", "-batch", "-"], {
        input: `link del ${link}\nnetns del ${name}\n`,
      })),
  };
}
