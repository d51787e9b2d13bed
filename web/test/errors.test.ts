import assert from "node:assert/strict";
import { test } from "node:test";
import {
  fromWire,
  IndexError,
  isAbort,
  LensletError,
  LoadError,
  throwIfAborted,
  toWire,
} from "../ts/errors.js";

test("an error keeps class, kind and message across the worker boundary", () => {
  const back = fromWire(
    structuredClone(toWire(new IndexError("index_truncated", "the file ends early"))),
  );
  assert.ok(back instanceof IndexError && back instanceof LensletError);
  assert.deepEqual(
    [back.name, back.kind, back.message],
    ["IndexError", "index_truncated", "the file ends early"],
  );
});

test("an error of the wasm module is recognised by its name, not by its class", () => {
  const thrown = Object.assign(new Error("node 7: op Foo"), {
    name: "LoadError",
    kind: "unknown_op",
  });
  const back = fromWire(toWire(thrown));
  assert.ok(back instanceof LoadError);
  assert.equal(back.kind, "unknown_op");
});

test("foreign errors become the fallback class", () => {
  const wire = toWire(new TypeError("Failed to fetch"), "LoadError");
  assert.deepEqual(wire, { name: "LoadError", kind: "unknown", message: "Failed to fetch" });
  assert.equal(toWire("no").name, "RunError");
});

test("a trap says that the runtime stopped", () => {
  const wire = toWire(new WebAssembly.RuntimeError("unreachable"));
  assert.equal(wire.kind, "trap");
  assert.match(wire.message, /unreachable/);
});

test("a cancelled call is the platform's own AbortError, whatever the reason was", () => {
  const controller = new AbortController();
  controller.abort(new Error("changed my mind"));
  assert.throws(() => throwIfAborted(controller.signal), isAbort);
  const back = fromWire(toWire(new DOMException("stop", "AbortError")));
  assert.ok(back instanceof DOMException && isAbort(back));
});
