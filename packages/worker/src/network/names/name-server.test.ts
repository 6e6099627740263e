import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { formatIpv4 } from "@opensandbox/wire/ipv4.ts";
import { compilePolicy } from "../policy.ts";
import { query } from "../testing/fake-resolver.ts";
import { parseQuestion, recordTypes, type ResourceRecord, responseCodes } from "./dns-message.ts";
import { addressesFor, refusalOf } from "./name-server.ts";

function refusal(
  policy: Parameters<typeof compilePolicy>[0],
  name: string,
  type: number = recordTypes.a,
): number | undefined {
  const question = parseQuestion(query(name, type));
  assert.ok(question !== undefined);
  return refusalOf(question, compilePolicy(policy))?.code;
}

suite("a question is forwarded", () => {
  test("when the network is open, unless it is a transfer or for any type", () => {
    assert.equal(refusal({ enabled: true }, "any.example"), undefined);
    assert.equal(refusal({ enabled: true }, "exa mple"), undefined);
    assert.equal(refusal({ enabled: true }, "any.example", recordTypes.https), undefined);
    assert.equal(refusal({ enabled: true }, "any.example", 255), responseCodes.notImplemented);
  });

  test("never when the network is off", () => {
    assert.equal(refusal({ enabled: false }, "any.example"), responseCodes.nameError);
  });

  test("where names decide, only for an allowed name, and not for records that would hide names", () => {
    const policy = { enabled: true, egress: { allow: ["a.example"] } };
    assert.equal(refusal(policy, "a.example"), undefined);
    assert.equal(refusal(policy, "A.Example", recordTypes.aaaa), undefined);
    assert.equal(refusal(policy, "a.example", recordTypes.https), responseCodes.noError);
    assert.equal(refusal(policy, "b.example"), responseCodes.nameError);
    assert.equal(refusal(policy, "exa mple"), responseCodes.nameError);
  });
});

test("the addresses of an answer are those of the name and its aliases, in any order of records", () => {
  const answer = (name: string, type: number, data: string): ResourceRecord => ({
    ...{ section: "answer", name, type, class: 1, ttl: 60, ttlAt: 0 },
    data: Buffer.from(type === recordTypes.a ? data.split(".").map(Number) : []),
    ...(type === recordTypes.cname ? { target: data } : {}),
  });
  const answers = [
    answer("c.example", recordTypes.a, "203.0.113.3"),
    answer("a.example", recordTypes.cname, "b.example"),
    answer("b.example", recordTypes.cname, "c.example"),
    answer("other.example", recordTypes.a, "203.0.113.9"),
    answer("c.example", recordTypes.a, "203.0.113.4"),
  ];
  assert.deepEqual(addressesFor("a.example", answers).map(formatIpv4), ["203.0.113.3", "203.0.113.4"]);
  assert.deepEqual(addressesFor("x.example", answers), []);
});
