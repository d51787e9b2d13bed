import assert from "node:assert/strict";
import { test } from "node:test";
import { WorkerClient } from "../ts/client.js";
import {
  IndexError,
  isAbort,
  LoadError,
  PictureError,
  RunError,
  UnsupportedError,
} from "../ts/errors.js";
import { BROWSER } from "../ts/host.js";
import { ImageIndex, type SearchHits } from "../ts/image-index.js";
import type { LoadProgress } from "../ts/progress.js";
import type { SearchHit } from "../ts/wasm.js";
import { bench, gpuFailure, LoopbackWorker } from "./support.js";

const item = (path: string, word: string) => ({ path, blob: new Blob([word]) });

test("loading reports rising progress up to 1", async () => {
  const { client } = bench();
  const seen: LoadProgress[] = [];
  await client.call(
    "load",
    { folder: "https://x/", model: "fake", device: "auto", cache: false },
    { onProgress: (progress) => seen.push(progress) },
  );
  assert.deepEqual([...new Set(seen.map(({ stage }) => stage))], ["prepare", "compile", "ready"]);
  assert.equal(seen.at(-1)?.value, 1);
});

test("auto falls back to WASM when the GPU fails, and says why", async () => {
  const { controls, load } = bench();
  controls.beforeLoad = (device) => {
    if (device === "webgpu") {
      throw gpuFailure();
    }
  };
  const tower = await load("auto");
  assert.deepEqual([tower.device, tower.adapter], ["wasm", ""]);
  assert.match(tower.fallback ?? "", /could not be made/);
  await assert.rejects(
    load("webgpu"),
    (error) => error instanceof LoadError && error.kind === "gpu",
  );
});

test("a model that is not there is no reason to fall back", async () => {
  const { controls, load } = bench({
    around: {
      fetchModel: async () => {
        throw new LoadError("not_found", "no model there");
      },
    },
  });
  await assert.rejects(load(), (error) => error instanceof LoadError && error.kind === "not_found");
  assert.deepEqual(controls.loads, []);
});

test("a browser without SIMD is told before anything is fetched", async () => {
  let fetched = false;
  const { load } = bench({
    around: {
      wasmVariant: () => {
        throw new UnsupportedError("no_simd", "update");
      },
      fetchModel: async () => {
        fetched = true;
        return [];
      },
    },
  });
  await assert.rejects(load(), UnsupportedError);
  assert.equal(fetched, false);
});

test("embeddings come back one vector a picture or text", async () => {
  const tower = await bench().load();
  const images = await tower.embedImages([new Blob(["dog"]), new Blob(["cat"])]);
  assert.deepEqual(
    images.map((vector) => Array.from(vector)),
    [
      [0, 1, 0, 0],
      [1, 0, 0, 0],
    ],
  );
  const texts = await tower.embedTexts(["rocket"]);
  assert.deepEqual(
    texts.map((vector) => Array.from(vector)),
    [[0, 0, 1, 0]],
  );
  await assert.rejects(tower.embedImages([new Blob(["?"])]), PictureError);
});

test("cancelling rejects at once and stops between pictures", async () => {
  const { controls, load } = bench();
  const tower = await load();
  const controller = new AbortController();
  controls.beforeEmbed = () => {
    if (controls.embeds === 1) {
      controller.abort();
    }
    return new Promise((resolve) => setTimeout(resolve, 2));
  };
  const pictures = Array.from({ length: 20 }, () => new Blob(["cat"]));
  await assert.rejects(tower.embedImages(pictures, { signal: controller.signal }), isAbort);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(controls.embeds < 5, `${controls.embeds} pictures ran`);
});

test("a search overtakes pictures that wait", async () => {
  const { controls, load } = bench();
  const tower = await load();
  const order: string[] = [];
  controls.beforeEmbed = () => new Promise((resolve) => setTimeout(resolve, 5));
  const pictures = Array.from({ length: 6 }, (_, i) =>
    tower.embedImages([new Blob(["cat"])]).then(() => order.push(`picture ${i}`)),
  );
  await new Promise((resolve) => setTimeout(resolve, 2));
  await tower.embedTexts(["dog"]).then(() => order.push("text"));
  await Promise.all(pictures);
  assert.ok(order.indexOf("text") <= 2, order.join(", "));
});

test("a lost GPU is rebuilt once and the call repeated", async () => {
  const { controls, load } = bench();
  const tower = await load();
  let lost = true;
  controls.beforeEmbed = () => {
    if (lost) {
      lost = false;
      throw new RunError("device_lost", "the GPU went away");
    }
  };
  const [vector] = await tower.embedTexts(["cat"]);
  assert.equal(vector?.[0], 1);
  assert.deepEqual(controls.loads, ["webgpu", "webgpu"]);
  assert.equal(controls.disposed, 1);
});

test("an index adds what is new, skips what is unreadable, finds and persists", async () => {
  const { controls, load, store } = bench();
  const tower = await load();
  const index = await ImageIndex.open("pets", tower);
  const progress: number[] = [];
  const report = await index.add([item("a", "cat"), item("b", "dog"), item("c", "noise")], {
    onProgress: ({ done }) => progress.push(done),
  });
  assert.deepEqual([report.added, report.unchanged], [2, 0]);
  assert.deepEqual(
    report.skipped.map(({ path, error }) => [path, error.kind]),
    [["c", "image_corrupt"]],
  );
  assert.deepEqual(progress, [0, 1, 2, 3]);
  assert.equal(index.size, 2);
  assert.deepEqual(await plain(index.search("dog", { k: 1 })), [{ path: "b", score: 1 }]);
  assert.deepEqual(await plain(index.search(new Blob(["cat"]), { k: 1 })), [
    { path: "a", score: 1 },
  ]);
  assert.deepEqual(await plain(index.search(Float32Array.of(0, 1, 0, 0), { k: 1 })), [
    { path: "b", score: 1 },
  ]);
  await index.close();

  const before = controls.embeds;
  const again = await ImageIndex.open("pets", tower);
  assert.deepEqual([again.size, again.rebuilt], [2, false]);
  const second = await again.add([item("a", "cat"), item("b", "dog")]);
  assert.deepEqual([second.added, second.unchanged, controls.embeds - before], [0, 2, 0]);
  assert.deepEqual((await again.paths()).sort(), ["a", "b"]);
  assert.equal(await again.remove("a"), 1);
  await again.clear();
  assert.equal(again.size, 0);
  const other = bench({ store });
  assert.equal((await ImageIndex.open("pets", await other.load())).size, 0);
});

test("pictures are fetched only if the index lacks them", async () => {
  const tower = await bench().load();
  const index = await ImageIndex.open("lazy", tower);
  let fetched = 0;
  const lazy = {
    path: "a",
    modified: 7,
    blob: () => {
      fetched += 1;
      return new Blob(["cat"]);
    },
  };
  await index.add([lazy]);
  await index.add([lazy]);
  assert.equal(fetched, 1);
  const failing = await index.add([
    { path: "b", blob: () => Promise.reject(new Error("offline")) },
  ]);
  assert.equal(failing.skipped[0]?.error.kind, "image_unavailable");
});

test("an index of another model is an error, or starts anew; a damaged one starts anew", async () => {
  const first = bench({ fingerprint: "model-a" });
  const index = await ImageIndex.open("mine", await first.load());
  await index.add([item("a", "cat")]);

  const tower = await bench({ fingerprint: "model-b", store: first.store }).load();
  await assert.rejects(
    ImageIndex.open("mine", tower),
    (error) => error instanceof IndexError && error.kind === "index_fingerprint",
  );
  const cleared = await ImageIndex.open("mine", tower, { onMismatch: "clear" });
  assert.deepEqual([cleared.size, cleared.rebuilt], [0, true]);

  await first.store.write("indexes/torn.idx", new Uint8Array([123]));
  const torn = await ImageIndex.open("torn", tower);
  assert.deepEqual([torn.size, torn.rebuilt], [0, true]);
});

test("dispose frees the tower and its indexes and rejects later calls", async () => {
  const { controls, load } = bench();
  const tower = await load();
  const index = await ImageIndex.open("x", tower);
  assert.deepEqual(await tower.memory(), { host: 10, device: 20 });
  await tower.dispose();
  assert.deepEqual([controls.disposed, controls.freed], [1, 1]);
  await assert.rejects(
    index.search("cat"),
    (error) => error instanceof RunError && error.kind === "disposed",
  );
});

test("a worker that cannot start fails every call with a LoadError", async () => {
  const worker = new LoopbackWorker(BROWSER);
  const client = new WorkerClient(worker);
  const call = client.call("memory", {});
  worker.crash("404");
  await assert.rejects(call, (error) => error instanceof LoadError && /404/.test(error.message));
  await assert.rejects(client.call("memory", {}), LoadError);
});

/** Hits without who found them. */
async function plain(hits: Promise<SearchHits>): Promise<SearchHit[]> {
  return Array.from(await hits);
}
