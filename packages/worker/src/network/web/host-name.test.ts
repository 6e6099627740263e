import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { array, assert as holds, property, string, tuple } from "fast-check";
import { normalName } from "@opensandbox/wire/egress.ts";
import { hostOf } from "./host-name.ts";

suite("the name that an HTTP request is for", () => {
  for (const [host, name] of [
    ["a.example", "a.example"],
    ["A.Example.", "a.example"],
    ["a.example:8080", "a.example"],
    ["a.example.:80", "a.example"],
  ] as const) {
    test(`${host} is ${name}`, () => assert.deepEqual(hostOf({ url: "/", rawHeaders: ["Host", host] }), { name }));
  }

  for (const host of ["a.example.:80:", "a.example:80:80", "u@a.example", "203.0.113.1", "\xe4.example", "a,b", ""]) {
    test(`${JSON.stringify(host)} is not a host name`, () => {
      assert.equal(hostOf({ url: "/", rawHeaders: ["Host", host] }).name, undefined);
    });
  }

  test("is undefined with two headers, without one, or with a name in the target", () => {
    const rawHeaders = ["Host", "a.example"];
    assert.equal(hostOf({ url: "/", rawHeaders: [...rawHeaders, "hOst", "a.example"] }).name, undefined);
    assert.equal(hostOf({ url: "/", rawHeaders: ["X", "host"] }).name, undefined);
    for (const url of ["http://a.example/", "a.example:80", ""])
      assert.equal(hostOf({ url, rawHeaders }).name, undefined);
    assert.equal(hostOf({ url: "*", rawHeaders }).name, "a.example");
  });

  test("of any head is a name as policies write it, or undefined", () => {
    holds(
      property(string(), array(tuple(string(), string())), string(), (url, headers, host) => {
        const { name } = hostOf({ url: `/${url}`, rawHeaders: [...headers.flat(), "Host", host] });
        if (name !== undefined) assert.equal(normalName(name), name);
      }),
      { numRuns: 2000 },
    );
  });
});
