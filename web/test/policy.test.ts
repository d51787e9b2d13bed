import assert from "node:assert/strict";
import { test } from "node:test";
import { BackOff, largestModel, Policy, type Question } from "../ts/offload/policy.js";
import { retryAfter } from "../ts/offload/server-error.js";
import { Estimate } from "../ts/offload/times.js";

/** A policy on a clock of the test's own. */
function policy() {
  const clock = { now: 0 };
  const made = new Policy("allow", "auto", () => clock.now);
  const ask = (more: Partial<Question> = {}) =>
    made.decide({
      model: "m",
      parts: { text: 1 },
      bytes: 100,
      local: "ready",
      server: "ready",
      ...more,
    });
  return { clock, made, times: made.times("m"), ask };
}

test("what must not leave does not, and what cannot run here does not", () => {
  const { made, ask } = policy();
  assert.deepEqual(ask({ local: "memory" }), { answeredBy: "server", reason: "memory" });
  assert.deepEqual(ask({ server: "offline" }), { answeredBy: "local", reason: "offline" });
  assert.equal(ask({ local: "memory", server: "offline" }).answeredBy, "local");
  made.quality = "full";
  assert.deepEqual(ask(), { answeredBy: "server", reason: "quality_full" });
  made.privacy = "local-only";
  for (const more of [{}, { local: "memory" }, { local: "local_failed" }] as const) {
    assert.deepEqual(ask(more), { answeredBy: "local", reason: "local_only" });
  }
});

test("the first run is local; then whoever is expected to be faster answers", () => {
  const { made, ask, times } = policy();
  assert.equal(ask().answeredBy, "local");
  times.observeLocal("text", 40);
  made.observeRoundTrip(10);
  assert.equal(ask().answeredBy, "server");
  times.observeServer({ parts: { text: 1 }, bytes: 100, ms: 200 });
  assert.equal(ask().answeredBy, "local");
  // What was measured for texts says nothing of pictures, and nothing of another model.
  assert.equal(ask({ parts: { image: 1 } }).answeredBy, "local");
  made.tellLocal({ text: 10_000 });
  assert.equal(ask().answeredBy, "server");
  assert.equal(ask({ model: "other" }).answeredBy, "server");
  made.times("other").observeLocal("text", 1);
  assert.equal(ask({ model: "other" }).answeredBy, "local");
});

test("two sides that are alike do not flap", () => {
  const { made, ask, times } = policy();
  times.observeLocal("text", 100);
  made.observeRoundTrip(0);
  const places: string[] = [];
  for (const there of [90, 85, 105, 95, 110, 90]) {
    times.observeServerWork("text", there);
    places.push(ask().answeredBy);
  }
  assert.deepEqual(new Set(places), new Set(["local"]));
  for (let i = 0; i < 20; i++) {
    times.observeServerWork("text", 50);
  }
  assert.equal(ask().answeredBy, "server");
  times.observeServerWork("text", 150);
  assert.equal(ask().answeredBy, "server", "one slow answer is an accident");
});

test("a narrow way keeps large pictures here and lets texts through", () => {
  const { made, ask, times } = policy();
  times.tellLocal({ text: 500, image: 500 });
  times.observeServer({ parts: { image: 1 }, bytes: 100_000, ms: 1020, computeMs: 20 });
  made.observeRoundTrip(20);
  assert.equal(ask({ parts: { image: 1 }, bytes: 100_000 }).answeredBy, "local");
  assert.equal(ask({ parts: { image: 1 }, bytes: 1000 }).answeredBy, "server");
  assert.equal(ask().answeredBy, "server");
});

test("a server that was slow once is tried again after a while", () => {
  const { clock, ask, times } = policy();
  times.observeLocal("text", 100);
  times.observeServerWork("text", 20);
  for (let i = 0; i < 20; i++) {
    times.observeServerWork("text", 1000);
  }
  assert.equal(ask().answeredBy, "local");
  clock.now += 10 * 60_000;
  assert.equal(ask().answeredBy, "server");
});

test("a long text is weighed by its tokens", () => {
  const { made, ask, times } = policy();
  times.tellLocal({ prompt: 10, token: 5 });
  made.observeRoundTrip(60);
  times.observeServerWork("token", 1);
  assert.equal(ask({ parts: times.textOf(4) }).answeredBy, "local");
  assert.equal(ask({ parts: times.textOf(undefined) }).answeredBy, "local");
  for (let i = 0; i < 20; i++) {
    times.observeLength(200);
  }
  assert.equal(ask({ parts: times.textOf(undefined) }).answeredBy, "server");
  assert.equal(times.textOf(50).token, 50);
});

test("an estimate follows what is measured and begins with what it was told", () => {
  const estimate = new Estimate();
  assert.equal(estimate.value(0), undefined);
  estimate.tell(1000, 0);
  assert.equal(estimate.value(1e9), 1000);
  estimate.observe(10, 0);
  assert.equal(estimate.value(0), 10);
  estimate.observe(20, 0);
  assert.equal(estimate.value(0), 13);
  assert.equal(estimate.value(60_000), 11.5);
});

test("a server is left alone longer each time, at least as long as it says, and never for hours", () => {
  const backOff = new BackOff();
  assert.equal(backOff.reason(0), undefined);
  backOff.failed("server_overloaded", 0, 2_000);
  assert.deepEqual(
    [backOff.reason(4_999), backOff.reason(5_000)],
    ["server_overloaded", undefined],
  );
  backOff.failed("server_unreachable", 5_000);
  assert.deepEqual(
    [backOff.reason(14_999), backOff.reason(15_000)],
    ["server_unreachable", undefined],
  );
  for (let i = 0; i < 50; i++) {
    backOff.failed("server_failed", 0);
  }
  assert.equal(backOff.reason(300_000), undefined);
  backOff.succeeded();
  backOff.failed("server_failed", 0, 60_000);
  assert.deepEqual([backOff.reason(59_999), backOff.reason(60_000)], ["server_failed", undefined]);
});

test("Retry-After is seconds or a date", () => {
  assert.equal(retryAfter("2", 0), 2000);
  assert.equal(retryAfter("Thu, 01 Jan 1970 00:00:05 GMT", 2000), 3000);
  assert.equal(retryAfter("soon", 0), undefined);
  assert.equal(retryAfter(null, 0), undefined);
});

test("a device of two gigabytes loads a model of a quarter of one, and one that tells nothing any", () => {
  assert.equal(largestModel(2), 2 ** 28);
  assert.equal(largestModel(undefined), undefined);
});
