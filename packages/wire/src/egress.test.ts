import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { normalName, parseEgress } from "./egress.ts";
import { isSandboxError } from "./errors.ts";
import { formatIpv4, isInRanges, mergeRanges, parseIpv4, parseRange } from "./ipv4.ts";

function allowed(text: string): unknown {
  return parseEgress({ allow: [text] }).allow?.[0];
}

suite("egress rules", () => {
  test("names, names below a domain, addresses and ranges", () => {
    assert.deepEqual(allowed("Example.COM."), { kind: "name", name: "example.com", below: false });
    assert.deepEqual(allowed("*.example.com"), { kind: "name", name: "example.com", below: true });
    assert.deepEqual(allowed("bücher.example"), { kind: "name", name: "xn--bcher-kva.example", below: false });
    assert.deepEqual(allowed(" 8.8.8.8 "), {
      kind: "range",
      range: { first: 0x08080808, last: 0x08080808 },
    });
    assert.deepEqual(allowed("203.0.113.77/24"), {
      kind: "range",
      range: { first: parseIpv4("203.0.113.0"), last: parseIpv4("203.0.113.255") },
    });
    assert.deepEqual(allowed("0.0.0.0/0"), { kind: "range", range: { first: 0, last: 2 ** 32 - 1 } });
  });

  const wrong = [
    ...["", "*", "*.", "*.*.com", "a..b", "-a.com", "http://example.com", "example.com/path", "example.com:443"],
    ...[
      "user@example.com",
      "exa mple.com",
      "1.2.3",
      "1.2.3.4.5",
      "1.2.3.4/33",
      "::1",
      "2001:db8::/32",
      "[::1]",
      "%41.com",
    ],
    ...[
      "10.0.0.0/8",
      "10.1.2.3",
      "169.254.169.254",
      "192.168.0.0/16",
      "127.0.0.1",
      "168.63.129.16",
      `${"a".repeat(64)}.com`,
    ],
  ];
  for (const text of wrong) {
    test(`"${text}" is refused`, () => {
      assert.throws(
        () => parseEgress({ allow: [text] }),
        (error) => isSandboxError(error, "invalid_argument"),
      );
    });
  }

  test("unreachable ranges may be denied", () => {
    const { allow, deny } = parseEgress({ deny: ["10.0.0.0/8"] });
    assert.equal(allow, undefined);
    assert.equal(deny.length, 1);
  });

  test("a domain name has one canonical form", () => {
    assert.equal(normalName("WWW.Example.com."), "www.example.com");
    assert.equal(normalName("_dmarc.example.com"), "_dmarc.example.com");
    assert.equal(normalName("0x7f.1"), undefined);
  });
});

suite("IPv4", () => {
  test("addresses parse in dotted notation only", () => {
    assert.equal(formatIpv4(parseIpv4("255.254.0.1")!), "255.254.0.1");
    for (const text of ["01.2.3.4", "1.2.3.256", "1.2.3", "0x1.2.3.4", "1.2.3.4 ", ""]) {
      assert.equal(parseIpv4(text), undefined, text);
    }
  });

  test("ranges that touch or overlap become one", () => {
    const ranges = ["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.3.0/24", "255.255.255.255"].map((text) =>
      parseRange(text)!,
    );
    const merged = mergeRanges(ranges);
    assert.deepEqual(
      merged.map(({ first, last }) => `${formatIpv4(first)}-${formatIpv4(last)}`),
      ["10.0.0.0-10.0.1.255", "10.0.3.0-10.0.3.255", "255.255.255.255-255.255.255.255"],
    );
    assert.equal(isInRanges(parseIpv4("10.0.2.255")!, merged), false);
    assert.equal(isInRanges(parseIpv4("10.0.1.255")!, merged), true);
  });
});
