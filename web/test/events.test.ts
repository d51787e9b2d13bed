import assert from "node:assert/strict";
import { test } from "node:test";
import { readEvents } from "../ts/offload/events.js";

const patient = <T>(what: Promise<T>): Promise<T> => what;

/** The data in an answer that comes in such pieces. */
async function data(pieces: Iterable<Uint8Array>): Promise<string[]> {
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const piece of pieces) {
        controller.enqueue(piece);
      }
      controller.close();
    },
  });
  const found: string[] = [];
  for await (const one of readEvents(new Response(body), patient)) {
    found.push(one);
  }
  return found;
}

test("events are read however the answer is cut", async () => {
  const text =
    'data: {"a":"ä€😀"}\n\n: keep-alive\r\n\r\nevent: x\ndata:two\r\n\r\ndata: [DONE]\n\n';
  const whole = new TextEncoder().encode(text);
  const expected = ['{"a":"ä€😀"}', "two", "[DONE]"];
  assert.deepEqual(await data([whole]), expected);
  assert.deepEqual(await data(Array.from(whole, (byte) => Uint8Array.of(byte))), expected);
  for (let at = 1; at < whole.length; at++) {
    assert.deepEqual(await data([whole.slice(0, at), whole.slice(at)]), expected, `cut at ${at}`);
  }
});

test("what is cut off is no event, and one without an end is given up", async () => {
  assert.deepEqual(await data([new TextEncoder().encode("data: one\n\ndata: tw")]), ["one"]);
  const endless = Array.from({ length: 40 }, () => new Uint8Array(65_536).fill(97));
  await assert.rejects(data(endless), SyntaxError);
});
