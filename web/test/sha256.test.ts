import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { digestOf, sha256 } from "../ts/sha256.js";

test("the script's digest equals the platform's around every block boundary", () => {
  for (const length of [0, 1, 3, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000]) {
    const bytes = Uint8Array.from({ length }, (_, i) => (i * 31 + length) & 0xff);
    const expected = createHash("sha256").update(bytes).digest("hex");
    assert.equal(Buffer.from(digestOf(bytes)).toString("hex"), expected, `${length} bytes`);
  }
});

test("a view into a larger buffer is digested alone", async () => {
  const whole = new Uint8Array(200).fill(7);
  const part = whole.subarray(13, 113);
  const expected = createHash("sha256").update(part).digest("hex");
  assert.equal(Buffer.from(digestOf(part)).toString("hex"), expected);
  assert.equal(await sha256(part), expected);
});
