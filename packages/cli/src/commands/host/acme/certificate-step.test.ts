import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { suite, test } from "node:test";
import { runForTest } from "../../../testing/test-host.ts";
import type { HostOptions } from "../options.ts";
import { optionsFrom } from "../host-options.ts";
import { checkHost, removeFromHost, setUpHost } from "../set-up-host.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { isDue } from "./certificate-files.ts";

const launcher = "/opt/opensandbox/opensandbox";
const skip = spawnSync("openssl", ["version"]).status === 0 ? false : "openssl is not installed";
const domain = "example.com";
const day = 86_400_000;

/** A certificate of these names that is good for 90 days. */
function certificateOf(...names: readonly string[]): string {
  const key = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "/dev/null"];
  const altNames = names.map((name) => `DNS:${name}`).join(",");
  const subject = ["-subj", `/CN=${names[0]}`, "-addext", `subjectAltName=${altNames}`, "-days", "90"];
  const { status, stdout, stderr } = spawnSync("openssl", ["req", ...key, ...subject], { encoding: "utf8" });
  assert.equal(status, 0, stderr);
  return stdout;
}

const options: Partial<HostOptions> = optionsFrom({
  ...{ firewall: false, domain, acmeEmail: "me@example.com", acmeHook: "/etc/dns hook" },
});

suite("a certificate by ACME", { skip }, () => {
  test("is got once, serves the domain, and is renewed by a timer, which a removal ends", async () => {
    await using host = await FakeHost.make();
    host.certificate = certificateOf(domain, `*.${domain}`);
    const common = { system: host.system, launcher, onStep: () => undefined };
    const never = new AbortController().signal;
    await setUpHost({ ...common, options }, never);
    const got = `${launcher} host certificate --domain example.com --acme-email me@example.com --acme-hook /etc/dns hook`;
    assert.equal(host.changes.filter((change) => change === got).length, 1);
    assert.deepEqual(host.units.get("opensandbox-certificate.timer"), { enabled: true, active: true });
    const tree = await host.tree();
    assert.match(
      tree["/etc/opensandbox/server.env"] ?? "",
      /^OPENSANDBOX_TLS_CERT=.*chain\.pem\nOPENSANDBOX_TLS_KEY=/m,
    );
    assert.match(
      tree["/etc/systemd/system/opensandbox-certificate.service"] ?? "",
      /^ExecStart=\/opt.* --acme-hook "\/etc\/dns hook" --restart opensandbox\.service$/m,
    );
    const changes = host.changes.length;
    await setUpHost({ ...common, options: {} }, never);
    assert.deepEqual(host.changes.slice(changes), []);
    host.certificate = undefined;
    await host.system.write("/var/lib/opensandbox/tls/chain.pem", certificateOf("other.example"));
    const findings = await checkHost({ system: host.system, launcher, options: {}, program: "osb" });
    assert.deepEqual(
      findings.filter(({ state }) => state !== "ok").map(({ step }) => step),
      ["certificate"],
    );
    await removeFromHost(common, never);
    assert.deepEqual(
      Object.keys(await host.tree()).filter((path) => path.includes("certificate")),
      [],
    );
  });

  test("is due a month before its end, and when it lacks the domain or its names", () => {
    const whole = certificateOf(domain, `*.${domain}`);
    assert.equal(isDue(whole, domain), false);
    assert.equal(isDue(whole, domain, Date.now() + 59 * day), false);
    assert.equal(isDue(whole, domain, Date.now() + 61 * day), true);
    assert.equal(isDue(whole, "other.example"), true);
    assert.equal(isDue(certificateOf(domain), domain), true);
    assert.equal(isDue("no certificate", domain), true);
  });
});

for (const [words, says] of [
  ["host setup --acme-email me@example.com", "--acme-email and --acme-hook belong together"],
  ["host setup --acme-email me@example.com --acme-hook /hook", "--acme-email needs --domain"],
  ["host setup --domain a.example --acme-email me --acme-hook /hook", "--acme-email takes an address"],
  ["host setup --domain a.example --acme-email me@a.example --acme-hook hook", "--acme-hook takes an absolute path"],
  ["host certificate --domain a.example", "--acme-email and --acme-hook are needed"],
  ["host certificate", "--domain takes a name"],
] as const) {
  test(`${words}: refused before anything is changed`, async () => {
    const { code, stderr } = await runForTest(words.split(" "));
    assert.equal(code, 2);
    assert.ok(stderr.startsWith(`osb: ${says}`), stderr);
  });
}
