import assert from "node:assert/strict";
import { test } from "node:test";
import { LoadMeter, type LoadProgress } from "../ts/progress.js";

function record(): { meter: LoadMeter; seen: LoadProgress[]; last: () => LoadProgress } {
  const seen: LoadProgress[] = [];
  return {
    meter: new LoadMeter((progress) => seen.push(progress)),
    seen,
    last: () => seen.at(-1) as LoadProgress,
  };
}

test("files count by their bytes", () => {
  const { meter, last } = record();
  meter.expect("a", 900);
  meter.expect("b", 100);
  meter.received("a", 450);
  assert.deepEqual(last(), {
    value: 0.75 * 0.45,
    stage: "download",
    loadedBytes: 450,
    totalBytes: 1000,
  });
  meter.received("a", 900);
  meter.received("b", 100);
  assert.equal(last().value, 0.75);
});

test("the value never goes back: not for a late total, a restarted file or a repeated stage", () => {
  const { meter, seen, last } = record();
  meter.received("a", 10);
  meter.expect("b", 1000);
  meter.received("b", 20);
  meter.received("a", 0);
  meter.enter("prepare", 0.5);
  meter.enter("prepare", 0.2);
  meter.enter("compile");
  meter.enter("ready", 1);
  for (const [i, progress] of seen.entries()) {
    assert.ok(progress.value >= (seen[i - 1]?.value ?? 0));
    assert.ok(progress.value >= 0 && progress.value <= 1);
  }
  assert.equal(last().value, 1);
});

test("fractions outside 0 to 1 are clamped", () => {
  const { meter, last } = record();
  meter.enter("compile", 7);
  assert.equal(last().value, 1);
});
