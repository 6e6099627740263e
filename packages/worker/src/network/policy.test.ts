import assert from "node:assert/strict";
import { suite, test } from "node:test";
import type { EgressRules } from "@opensandbox/wire/egress.ts";
import { ipv4Bytes, parseIpv4 } from "@opensandbox/wire/ipv4.ts";
import { closedPolicy, compilePolicy } from "./policy.ts";
import { policyChanges } from "./policy-sets.ts";

function compiled(egress?: EgressRules): ReturnType<typeof compilePolicy> {
  return compilePolicy({ enabled: true, ...(egress === undefined ? {} : { egress }) });
}

suite("a policy", () => {
  test("without rules allows every name, without inspection", () => {
    const policy = compiled();
    assert.equal(policy.open, true);
    assert.equal(policy.namesDecide, false);
    assert.equal(policy.allowsName("any.example"), true);
  });

  test("that is off allows nothing, whatever its rules", () => {
    const policy = compilePolicy({ enabled: false, egress: { allow: ["a.example", "203.0.113.0/24"] } });
    assert.equal(policy.open, false);
    assert.equal(policy.namesDecide, false);
    assert.equal(policy.allowsName("a.example"), false);
    assert.deepEqual(policy.allowedRanges, []);
  });

  test("allows the names that it lists, exactly or below a domain, unless they are denied", () => {
    const policy = compiled({ allow: ["a.example", "*.b.example", "203.0.113.0/24"], deny: ["secret.b.example"] });
    assert.equal(policy.open, false);
    assert.equal(policy.namesDecide, true);
    const names = [
      "a.example",
      "x.a.example",
      "b.example",
      "x.b.example",
      "y.x.b.example",
      "secret.b.example",
      "xb.example",
    ];
    assert.deepEqual(
      names.filter((name) => policy.allowsName(name)),
      ["a.example", "x.b.example", "y.x.b.example"],
    );
    assert.equal(policy.allowedRanges.length, 1);
  });

  test("that only denies names is open, with inspection", () => {
    const policy = compiled({ deny: ["*.evil.example"] });
    assert.equal(policy.open, true);
    assert.equal(policy.namesDecide, true);
    assert.equal(policy.allowsName("a.evil.example"), false);
    assert.equal(policy.allowsName("evil.example"), true);
    assert.equal(compiled({ deny: ["203.0.113.0/24"] }).namesDecide, false);
  });
});

suite("what a policy changes in the kernel", () => {
  const closed = { policy: compilePolicy(closedPolicy), epoch: 0, usesSecrets: false };
  const guest = { key: ipv4Bytes(parseIpv4("10.0.2.15")!) };
  const mark = Buffer.from([1, 0, 0, 0]);

  test("on a prepared network: a policy without rules only adds elements", () => {
    assert.deepEqual(policyChanges(closed, { policy: compiled(), epoch: 1, usesSecrets: false }), [
      { set: "open", add: [guest] },
      { set: "current", add: [{ key: mark }] },
      { set: "marks", add: [{ ...guest, value: mark }] },
    ]);
  });

  test("a range becomes its first address and the one after its last", () => {
    const policy = compiled({
      allow: ["203.0.113.0/25", "203.0.113.128/25", "223.255.255.255", "0.0.0.0/0"],
      deny: ["203.0.113.7"],
    });
    const changes = policyChanges(closed, { policy, epoch: 1, usesSecrets: false });
    assert.deepEqual(changes.slice(0, 2), [
      { set: "allowed", add: [{ key: Buffer.from([0, 0, 0, 0]) }] },
      {
        set: "denied",
        add: [{ key: Buffer.from([203, 0, 113, 7]) }, { key: Buffer.from([203, 0, 113, 8]), intervalEnd: true }],
      },
    ]);
  });

  test("only present elements are removed, and unchanged sets are not touched", () => {
    const from = { policy: compiled({ allow: ["203.0.113.7"] }), epoch: 1, usesSecrets: false };
    const to = { policy: compiled({ allow: ["203.0.113.7", "a.example"] }), epoch: 2, usesSecrets: false };
    assert.deepEqual(
      policyChanges(from, to).map((change) => `${"flush" in change ? "flush" : "add"} ${change.set}`),
      ["flush current", "flush marks", "add current", "add marks"],
    );
    assert.deepEqual(policyChanges(from, { policy: compiled(), epoch: 2, usesSecrets: false }).slice(0, 2), [
      { set: "open", add: [guest] },
      { set: "allowed", flush: true },
    ]);
  });
});
