import assert from "node:assert/strict";
import { test } from "node:test";
import { LoadError } from "../ts/errors.js";
import { fileUrl, resolveModel } from "../ts/model-url.js";

const page = "https://example.org/app/index.html?device=wasm#top";

test("a bare name resolves under the base, with or without its slash", () => {
  const expected = { url: "https://cdn.example.org/m/photo-search/", name: "photo-search" };
  assert.deepEqual(
    resolveModel("photo-search", { page, base: "https://cdn.example.org/m/" }),
    expected,
  );
  assert.deepEqual(
    resolveModel("photo-search", { page, base: "https://cdn.example.org/m" }),
    expected,
  );
  assert.equal(
    resolveModel("clip.v2", { page, base: "/models" }).url,
    "https://example.org/models/clip.v2/",
  );
});

test("paths and addresses resolve against the page", () => {
  assert.equal(resolveModel("./mine", { page }).url, "https://example.org/app/mine/");
  assert.equal(resolveModel("/m/mine/", { page }).url, "https://example.org/m/mine/");
  assert.equal(resolveModel("https://other.org/x?v=1#y", { page }).url, "https://other.org/x/");
  assert.deepEqual(resolveModel(new URL("https://other.org/a%20b"), { page }), {
    url: "https://other.org/a%20b/",
    name: "a b",
  });
});

test("what is neither is an error", () => {
  assert.throws(
    () => resolveModel("http://", { page }),
    (error) => error instanceof LoadError && error.kind === "bad_model_url",
  );
});

test("files stay inside the model's folder", () => {
  const folder = "https://example.org/models/clip/";
  assert.equal(fileUrl(folder, "onnx/model.onnx"), `${folder}onnx/model.onnx`);
  for (const path of ["../other/x", "/etc/x", "https://evil.org/x", "//evil.org/x", "", "."]) {
    assert.throws(() => fileUrl(folder, path), LoadError, path);
  }
});
