import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { isAbort, LoadError } from "../ts/errors.js";
import { fetchModel, parseManifest, selectFiles } from "../ts/model-files.js";
import { MemoryFiles } from "../ts/private-files.js";
import { LoadMeter } from "../ts/progress.js";

const folder = "https://example.org/models/clip/";
const text = (value: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(value);
const sha = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

type Answer = (request: { url: string; headers: Headers }) => Response;

/** A server: paths inside the folder, and what they answer. */
function server(files: Record<string, Uint8Array<ArrayBuffer> | Answer>): {
  fetch: typeof fetch;
  log: string[];
} {
  const log: string[] = [];
  return {
    log,
    fetch: async (input, init) => {
      const url = String(input);
      const path = url.slice(folder.length);
      log.push(path);
      init?.signal?.throwIfAborted();
      const file = files[path];
      if (!file) {
        return new Response("no", { status: 404 });
      }
      return typeof file === "function"
        ? file({ url, headers: new Headers(init?.headers) })
        : new Response(file, { headers: { "content-length": String(file.length) } });
    },
  };
}

function manifest(files: Record<string, Uint8Array>): Uint8Array<ArrayBuffer> {
  const entries = Object.entries(files).map(([path, bytes]) => ({
    path,
    bytes: bytes.length,
    sha256: sha(bytes),
  }));
  return text(JSON.stringify({ files: entries }));
}

const meter = (): LoadMeter => new LoadMeter(() => undefined);
const kind = (kind: string) => (error: unknown) =>
  error instanceof LoadError && error.kind === kind;

test("a manifest's files arrive checked, and come from the cache the next time", async () => {
  const files = { "a.onnx": text("weights"), "config.json": text("{}") };
  const store = new MemoryFiles();
  const first = server({ ...files, "lenslet.json": manifest(files) });
  const got = await fetchModel(folder, "dual-tower", undefined, {
    meter: meter(),
    store,
    fetch: first.fetch,
  });
  assert.deepEqual(
    got.map(({ name, bytes }) => [name, Buffer.from(bytes).toString()]),
    [
      ["a.onnx", "weights"],
      ["config.json", "{}"],
    ],
  );
  const second = server({ "lenslet.json": manifest(files) });
  await fetchModel(folder, "dual-tower", undefined, { meter: meter(), store, fetch: second.fetch });
  assert.deepEqual(second.log, ["lenslet.json"]);

  const offline: typeof fetch = async () => {
    throw new TypeError("Failed to fetch");
  };
  const again = await fetchModel(folder, "dual-tower", undefined, {
    meter: meter(),
    store,
    fetch: offline,
  });
  assert.equal(again.length, 2);
});

test("a new version replaces the kept files", async () => {
  const store = new MemoryFiles();
  const old = { "a.onnx": text("old") };
  const fresh = { "a.onnx": text("new") };
  for (const files of [old, fresh]) {
    const { fetch } = server({ ...files, "lenslet.json": manifest(files) });
    await fetchModel(folder, "dual-tower", undefined, { meter: meter(), store, fetch });
  }
  assert.equal(await store.read(`blobs/${sha(old["a.onnx"])}`), undefined);
  assert.ok(await store.read(`blobs/${sha(fresh["a.onnx"])}`));
});

test("a damaged or short file is refused", async () => {
  const listed = manifest({ "a.onnx": text("weights") });
  const damaged = server({ "lenslet.json": listed, "a.onnx": text("Weights") });
  await assert.rejects(
    fetchModel(folder, "dual-tower", undefined, { meter: meter(), fetch: damaged.fetch }),
    kind("wrong_hash"),
  );
  const short = server({ "lenslet.json": listed, "a.onnx": text("weigh") });
  await assert.rejects(
    fetchModel(folder, "dual-tower", undefined, { meter: meter(), fetch: short.fetch }),
    kind("wrong_size"),
  );
});

test("a broken connection is taken up where it broke", async () => {
  const whole = text("0123456789");
  const ranges: (string | null)[] = [];
  const breaking: Answer = ({ headers }) => {
    const range = headers.get("range");
    ranges.push(range);
    const from = Number(range?.match(/\d+/)?.[0] ?? 0);
    let sent = false;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (!sent) {
          sent = true;
          controller.enqueue(whole.subarray(from, from === 0 ? 4 : undefined));
        } else if (from === 0) {
          controller.error(new TypeError("connection reset"));
        } else {
          controller.close();
        }
      },
    });
    return new Response(body, { status: range ? 206 : 200, headers: { etag: '"v1"' } });
  };
  const { fetch } = server({ "lenslet.json": manifest({ "a.onnx": whole }), "a.onnx": breaking });
  const [file] = await fetchModel(folder, "dual-tower", undefined, { meter: meter(), fetch });
  assert.equal(Buffer.from(file?.bytes ?? []).toString(), "0123456789");
  assert.deepEqual(ranges, [null, "bytes=4-"]);
});

test("without a manifest the exporters' names are tried, quantized graphs first", async () => {
  const files = {
    "preprocessor_config.json": text("{}"),
    "tokenizer.json": text("{}"),
    "onnx/vision_model.onnx": text("vision"),
    "onnx/text_model_quantized.onnx": text("text"),
  };
  const { fetch } = server(files);
  const got = await fetchModel(folder, "dual-tower", undefined, { meter: meter(), fetch });
  assert.deepEqual(got.map(({ name }) => name).sort(), [
    "onnx/text_model_quantized.onnx",
    "onnx/vision_model.onnx",
    "preprocessor_config.json",
    "tokenizer.json",
  ]);
  await assert.rejects(
    fetchModel(folder, "dual-tower", "fp16", { meter: meter(), fetch }),
    kind("not_found"),
  );
});

test("a start page in place of a missing file counts as missing", async () => {
  const page: Answer = () =>
    new Response("<!doctype html>", { headers: { "content-type": "text/html; charset=utf-8" } });
  const { fetch } = server({ "lenslet.json": page, "preprocessor_config.json": page });
  await assert.rejects(
    fetchModel(folder, "dual-tower", undefined, { meter: meter(), fetch }),
    kind("not_found"),
  );
});

test("cancelling is an AbortError, a server's failure a LoadError", async () => {
  const { fetch } = server({ "lenslet.json": () => new Response("busy", { status: 503 }) });
  const signal = AbortSignal.abort();
  await assert.rejects(
    fetchModel(folder, "dual-tower", undefined, { meter: meter(), fetch, signal }),
    isAbort,
  );
  await assert.rejects(
    fetchModel(folder, "dual-tower", undefined, { meter: meter(), fetch }),
    kind("http"),
  );
});

test("a manifest of another form is refused", () => {
  for (const bad of [
    "",
    "[]",
    "{}",
    '{"files":[]}',
    '{"files":[{"path":"a"}]}',
    '{"files":[{"path":"a","bytes":1,"sha256":"zz"}]}',
  ]) {
    assert.throws(() => parseManifest(bad), kind("bad_manifest"), bad);
  }
});

test("of several precisions one is fetched, with its weights, and everything else", () => {
  const paths = [
    "config.json",
    "onnx/vision_model.onnx",
    "onnx/vision_model.onnx_data",
    "onnx/vision_model_fp16.onnx",
    "onnx/vision_model_fp16.onnx_data",
    "onnx/text_model_quantized.onnx",
  ];
  const entries = paths.map((path) => ({ path, bytes: 1, sha256: "" }));
  const chosen = (variant?: string) =>
    selectFiles(entries, "dual-tower", variant).map(({ path }) => path);
  assert.deepEqual(chosen(), [paths[0], paths[3], paths[4], paths[5]]);
  assert.deepEqual(chosen(""), [paths[0], paths[1], paths[2], paths[5]]);
  assert.throws(() => chosen("q4"), kind("no_such_variant"));
  const whole = { path: "onnx/model.onnx", bytes: 1, sha256: "" };
  assert.deepEqual(
    selectFiles([...entries, whole], "dual-tower", undefined).includes(whole),
    false,
  );
  assert.deepEqual(selectFiles([whole], "dual-tower", undefined), [whole]);
});

test("a captioner's graphs are its encoder and one form of its decoder", async () => {
  const graphs = [
    "encoder_model",
    "decoder_model_merged",
    "decoder_model",
    "decoder_with_past_model",
  ];
  const paths = graphs.flatMap((stem) => [`onnx/${stem}.onnx`, `onnx/${stem}_quantized.onnx`]);
  const entries = [...paths, "tokenizer.json"].map((path) => ({ path, bytes: 1, sha256: "" }));
  const chosen = (list: typeof entries, variant?: string) =>
    selectFiles(list, "captioner", variant).map(({ path }) => path);
  assert.deepEqual(chosen(entries), [
    "onnx/encoder_model_quantized.onnx",
    "onnx/decoder_model_merged_quantized.onnx",
    "tokenizer.json",
  ]);
  assert.deepEqual(chosen(entries, ""), [
    "onnx/encoder_model.onnx",
    "onnx/decoder_model_merged.onnx",
    "tokenizer.json",
  ]);
  const pair = entries.filter(({ path }) => !path.includes("merged"));
  assert.deepEqual(chosen(pair, ""), [
    "onnx/encoder_model.onnx",
    "onnx/decoder_model.onnx",
    "onnx/decoder_with_past_model.onnx",
    "tokenizer.json",
  ]);

  const { fetch } = server({
    "preprocessor_config.json": text("{}"),
    "tokenizer.json": text("{}"),
    "generation_config.json": text("{}"),
    "onnx/encoder_model_quantized.onnx": text("encoder"),
    "onnx/decoder_model.onnx": text("first"),
    "onnx/decoder_with_past_model.onnx": text("next"),
  });
  const got = await fetchModel(folder, "captioner", undefined, { meter: meter(), fetch });
  assert.deepEqual(got.map(({ name }) => name).sort(), [
    "generation_config.json",
    "onnx/decoder_model.onnx",
    "onnx/decoder_with_past_model.onnx",
    "onnx/encoder_model_quantized.onnx",
    "preprocessor_config.json",
    "tokenizer.json",
  ]);
});

test("an answerer's graphs are an encoder, one form of its decoder, and a table for a decoder of embeddings", async () => {
  const graphs = ["vision_encoder", "embed_tokens", "decoder_model_merged", "model"];
  const paths = graphs.flatMap((stem) => [`onnx/${stem}.onnx`, `onnx/${stem}_q4f16.onnx`]);
  const entries = [...paths, "chat_template.json"].map((path) => ({ path, bytes: 1, sha256: "" }));
  const chosen = (list: typeof entries, variant?: string) =>
    selectFiles(list, "answerer", variant).map(({ path }) => path);
  assert.deepEqual(chosen(entries, "q4f16"), [
    "onnx/vision_encoder_q4f16.onnx",
    "onnx/embed_tokens_q4f16.onnx",
    "onnx/decoder_model_merged_q4f16.onnx",
    "chat_template.json",
  ]);
  assert.throws(() => chosen(entries, "q8"), kind("no_such_variant"));

  const files = {
    "preprocessor_config.json": text("{}"),
    "tokenizer.json": text("{}"),
    "chat_template.json": text("{}"),
    "onnx/encoder_model.onnx": text("encoder"),
    "onnx/decoder_model_merged.onnx": text("decoder"),
  };
  const names = async (present: Record<string, Uint8Array<ArrayBuffer>>) => {
    const { fetch } = server(present);
    const got = await fetchModel(folder, "answerer", undefined, { meter: meter(), fetch });
    return got.map(({ name }) => name).sort();
  };
  assert.deepEqual(await names(files), [
    "chat_template.json",
    "onnx/decoder_model_merged.onnx",
    "onnx/encoder_model.onnx",
    "preprocessor_config.json",
    "tokenizer.json",
  ]);
  const { "onnx/encoder_model.onnx": _, ...blind } = files;
  await assert.rejects(names(blind), kind("not_found"));
});

test("a text generator needs no picture settings, and takes its chat template along", async () => {
  const { fetch } = server({
    "tokenizer.json": text("{}"),
    "chat_template.jinja": text("{{ messages }}"),
    "onnx/model_quantized.onnx": text("weights"),
  });
  const got = await fetchModel(folder, "text-generator", undefined, { meter: meter(), fetch });
  assert.deepEqual(got.map(({ name }) => name).sort(), [
    "chat_template.jinja",
    "onnx/model_quantized.onnx",
    "tokenizer.json",
  ]);
  const empty = server({ "tokenizer.json": text("{}") });
  await assert.rejects(
    fetchModel(folder, "text-generator", undefined, { meter: meter(), fetch: empty.fetch }),
    kind("not_found"),
  );
});
