import assert from "node:assert/strict";
import { test } from "node:test";
import { loadCaptioner } from "../ts/captioner.js";
import { DualTower, loadDualTower } from "../ts/dual-tower.js";
import { IndexError, isAbort, LoadError, RunError } from "../ts/errors.js";
import { BROWSER } from "../ts/host.js";
import { ImageIndex } from "../ts/image-index.js";
import { Offload, type OffloadOptions } from "../ts/offload/offload.js";
import { ServerError } from "../ts/offload/server-error.js";
import { MemoryFiles } from "../ts/private-files.js";
import { sha256 } from "../ts/sha256.js";
import { bench, controls, fakeWasm, LoopbackWorker, WORDS } from "./support.js";

const URL_A = "https://a.example";
const URL_B = "https://b.example";
const cat = () => new Blob(["cat"], { type: "image/png" });
const words = new TextEncoder().encode("words");
const soon = () => new Promise((resolve) => setTimeout(resolve, 20));

/** Servers behind one `fetch`. */
class Servers {
  /** `METHOD host path` of every request that was sent. */
  readonly sent: string[] = [];
  /** Bodies of chats. */
  readonly chats: Record<string, unknown>[] = [];
  fingerprint = "model-a";
  tokenizer: Promise<string> | string = sha256(words);
  /** Pieces of every text. */
  pieces = ["a ", "big ", "cat"];
  /** Hosts that cut a text behind so many pieces. */
  readonly cut = new Map<string, number>();
  /** What hosts answer instead of what is asked for. */
  readonly instead = new Map<string, () => Response | Promise<Response>>();
  now = 0;

  offload(options: Partial<OffloadOptions> = {}): Offload {
    const settings = { url: URL_A, privacy: "allow", localMs: SLOW, ...options } as const;
    const fetch = (url: string, init: RequestInit) => this.#answer(new URL(url), init);
    return new Offload(settings, { fetch, now: () => this.now });
  }

  async #answer({ host, pathname }: URL, init: RequestInit): Promise<Response> {
    this.sent.push(`${init.method} ${host} ${pathname}`);
    init.signal?.throwIfAborted();
    const instead = this.instead.get(host);
    if (instead) {
      return await abortable(instead(), init.signal);
    }
    if (pathname.startsWith("/v1/models/")) {
      const { fingerprint } = this;
      const tokenizer = await this.tokenizer;
      return Response.json({ lenslet: { fingerprint, dimensions: WORDS.length, tokenizer } });
    }
    const body = JSON.parse(String(init.body));
    if (pathname === "/v1/embeddings") {
      const data = body.input.map((text: unknown) => ({ embedding: this.#vector(text) }));
      return Response.json({ data, lenslet: { fingerprint: this.fingerprint } });
    }
    this.chats.push(body);
    return this.#chat(host, body, init.signal);
  }

  #vector(input: unknown): string {
    const word =
      typeof input === "string"
        ? input
        : atob((input as { image_url: { url: string } }).image_url.url.split(",")[1] ?? "");
    const values = Float32Array.from(WORDS, (known) => (known === word ? 1 : 0));
    return btoa(String.fromCharCode(...new Uint8Array(values.buffer)));
  }

  #chat(host: string, body: Record<string, unknown>, signal: AbortSignal | null | undefined) {
    const own = (body.lenslet ?? {}) as { resume_tokens?: number[]; resume_text?: string };
    const from =
      own.resume_tokens?.length ??
      this.pieces.findIndex((_, i) => this.pieces.slice(0, i).join("") === (own.resume_text ?? ""));
    const cut = this.cut.get(host);
    const encoder = new TextEncoder();
    let at = from;
    const pull = (controller: ReadableStreamDefaultController): void => {
      const send = (value: unknown): void =>
        controller.enqueue(encoder.encode(`data: ${JSON.stringify(value)}\n\n`));
      const piece = this.pieces[at];
      if (signal?.aborted) {
        controller.error(signal.reason);
      } else if (cut !== undefined && at - from >= cut) {
        controller.error(new TypeError("network error"));
      } else if (piece !== undefined) {
        at += 1;
        send({ choices: [{ delta: { content: piece } }], lenslet: { tokens: [at] } });
      } else {
        send({ choices: [{ delta: {}, finish_reason: "stop" }], lenslet: { tokens: [] } });
        send({ choices: [], usage: { prompt_tokens: 1, completion_tokens: at } });
        controller.enqueue(encoder.encode("data: [DONE]\n\n"));
        controller.close();
      }
    };
    return new Response(new ReadableStream({ pull }, { highWaterMark: 0 }));
  }
}

/** A device on which everything takes a minute. */
const SLOW = { text: 60_000, image: 60_000, prompt: 60_000, token: 60_000 };

async function abortable(
  answer: Response | Promise<Response>,
  signal: AbortSignal | null | undefined,
): Promise<Response> {
  const gone = new Promise<never>((_, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
  return Promise.race([answer, gone]);
}

const refusal =
  (status: number, headers: Record<string, string> = {}) =>
  (): Response =>
    Response.json({ error: { message: "no", code: "no" } }, { status, headers });

const unreachable = (): Response => {
  throw new TypeError("fetch failed");
};

test("local-only sends nothing at all, whatever is asked, and takes effect at once", async () => {
  const servers = new Servers();
  const offload = servers.offload({ privacy: "local-only", quality: "full" });
  const { load, loadCaptioner } = bench();
  const tower = await load("auto", offload);
  const index = await ImageIndex.open("x", tower);
  await index.add([{ path: "cat.png", blob: cat }]);
  const hits = await index.search("cat");
  const [vector] = await tower.embedTexts(["dog"]);
  assert.deepEqual(
    [hits.answeredBy, hits.reason, vector?.answeredBy, vector?.fingerprint],
    ["local", "local_only", "local", "model-a"],
  );
  const captioner = await (await loadCaptioner("auto", offload)).caption(cat());
  assert.deepEqual([captioner.text, captioner.reason], ["a cat", "local_only"]);
  assert.deepEqual(servers.sent, []);
});

test("a slow device has texts, pictures and searches answered by the server, in the same space", async () => {
  const servers = new Servers();
  const { controls, load } = bench();
  const tower = await load("auto", servers.offload());
  const index = await ImageIndex.open("x", tower);
  await index.add([
    { path: "cat.png", blob: cat },
    { path: "dog.png", blob: dog },
  ]);
  const hits = await index.search("dog");
  assert.deepEqual([hits[0]?.path, hits.answeredBy, hits.reason], ["dog.png", "server", "faster"]);
  const like = await index.search(cat());
  assert.deepEqual([like[0]?.path, like.answeredBy], ["cat.png", "server"]);
  const [text] = await tower.embedTexts(["cat"]);
  assert.equal((await index.search(text ?? "")).at(0)?.path, "cat.png");
  assert.equal(controls.embeds, 0);
  assert.equal(servers.sent.filter((one) => one.includes("/v1/models/")).length, 1);
});

const dog = () => new Blob(["dog"], { type: "image/png" });

test("a fast device answers by itself once it knows that it is fast", async () => {
  const servers = new Servers();
  const { load } = bench();
  const tower = await load("auto", servers.offload({ localMs: {} }));
  const [first] = await tower.embedTexts(["cat"]);
  const [second] = await tower.embedTexts(["cat"]);
  assert.deepEqual([first?.answeredBy, second?.answeredBy], ["local", "local"]);
});

test("a server that fails is left alone for as long as it says, and asked again after that", async () => {
  const cases: [() => Response, string, number][] = [
    [refusal(429, { "retry-after": "30" }), "server_overloaded", 30_000],
    [refusal(503, { "retry-after": "1" }), "server_unavailable", 5_000],
    [refusal(500), "server_failed", 5_000],
    [refusal(401), "server_refused", 5_000],
    [unreachable, "server_unreachable", 5_000],
  ];
  for (const [instead, reason, pause] of cases) {
    const servers = new Servers();
    const tower = await bench().load("auto", servers.offload());
    const ask = async () => {
      const [vector] = await tower.embedTexts(["cat"]);
      return [vector?.answeredBy, vector?.reason];
    };
    assert.deepEqual(await ask(), ["server", "faster"]);
    servers.instead.set("a.example", instead);
    assert.deepEqual(await ask(), ["local", reason]);
    const { length } = servers.sent;
    servers.now += pause - 1;
    assert.deepEqual(await ask(), ["local", reason]);
    assert.equal(servers.sent.length, length, `${reason}: asked too early`);
    servers.instead.clear();
    servers.now += 2;
    // The local model has shown meanwhile that it is fast; who wants the full one still gets it.
    tower.offload && Object.assign(tower.offload, { quality: "full" });
    assert.deepEqual(await ask(), ["server", "quality_full"], reason);
  }
});

test("a server that says nothing is given up in time", async () => {
  const servers = new Servers();
  const tower = await bench().load("auto", servers.offload({ timeoutMs: 20 }));
  servers.instead.set("a.example", () => new Promise(() => undefined));
  const [vector] = await tower.embedTexts(["cat"]);
  assert.deepEqual([vector?.answeredBy, vector?.reason], ["local", "server_timeout"]);
});

test("a fast device does not wait for a server that does not answer", async () => {
  const servers = new Servers();
  const tower = await bench().load("auto", servers.offload({ localMs: { text: 5 } }));
  servers.instead.set("a.example", () => new Promise(() => undefined));
  const [vector] = await tower.embedTexts(["cat"]);
  // Who had waited would say that the server is too slow.
  assert.deepEqual([vector?.answeredBy, vector?.reason], ["local", "faster"]);
  tower.offload && Object.assign(tower.offload, { privacy: "local-only" });
});

test("an answer that makes no sense is the server's failure", async () => {
  const data = [{ embedding: "?" }];
  for (const answer of [
    "hello",
    "[]",
    JSON.stringify({ data, lenslet: { fingerprint: "model-a" } }),
  ]) {
    const servers = new Servers();
    const tower = await bench().load("auto", servers.offload());
    await tower.embedTexts(["cat"]);
    servers.instead.set("a.example", () => new Response(answer));
    const [vector] = await tower.embedTexts(["cat"]);
    assert.deepEqual([vector?.answeredBy, vector?.reason], ["local", "server_failed"], answer);
  }
});

test("where one server fails the next one answers", async () => {
  const servers = new Servers();
  servers.instead.set("a.example", unreachable);
  const tower = await bench().load("auto", servers.offload({ url: [URL_A, URL_B] }));
  const [vector] = await tower.embedTexts(["cat"]);
  assert.equal(vector?.answeredBy, "server");
  assert.equal(servers.sent.at(-1), "POST b.example /v1/embeddings");
});

test("vectors of another model never reach an index", async () => {
  const servers = new Servers();
  servers.fingerprint = "model-b";
  const tower = await bench().load("auto", servers.offload({ quality: "full" }));
  const index = await ImageIndex.open("x", tower);
  await index.add([{ path: "cat.png", blob: cat }]);
  const hits = await index.search("cat");
  assert.deepEqual([hits.answeredBy, hits.reason], ["local", "other_model"]);
  // Asked for by itself, the full model's vector comes, and says whose it is.
  const [full] = await tower.embedTexts(["cat"]);
  assert.deepEqual([full?.answeredBy, full?.fingerprint], ["server", "model-b"]);
  await assert.rejects(
    index.search(full ?? ""),
    (error) => error instanceof IndexError && error.kind === "index_fingerprint",
  );
  // A server that changes its model in between is found out by the answer.
  servers.fingerprint = "model-a";
  const changing = await bench().load("auto", servers.offload());
  const own = await ImageIndex.open("y", changing);
  assert.equal((await own.search("cat")).answeredBy, "server");
  servers.fingerprint = "model-b";
  const found = await own.search("cat");
  assert.deepEqual([found.answeredBy, found.reason], ["local", "other_model"]);
});

test("a caption that is cut goes on here behind what was shown, by tokens or by words", async () => {
  for (const same of [true, false]) {
    const servers = new Servers();
    servers.pieces = ["a ", "dog"];
    servers.cut.set("a.example", 1);
    if (!same) {
      servers.tokenizer = "another";
    }
    const { controls, loadCaptioner } = bench();
    const captioner = await loadCaptioner("auto", servers.offload());
    const stream = captioner.stream(cat());
    const pieces: string[] = [];
    for await (const piece of stream) {
      pieces.push(piece);
    }
    // The local model sees a cat. What was out already stays, and comes once.
    assert.deepEqual(pieces, ["a ", "cat"]);
    assert.deepEqual(stream.answers, [
      { answeredBy: "server", reason: "faster" },
      { answeredBy: "local", reason: "server_unreachable" },
    ]);
    assert.deepEqual(controls.wishes, [same ? { resumeTokens: [1] } : { resumeText: "a " }]);
    assert.equal(controls.open, 0);
  }
});

test("a caption that is cut goes on at another server", async () => {
  const servers = new Servers();
  servers.cut.set("a.example", 2);
  const { controls, loadCaptioner } = bench();
  const captioner = await loadCaptioner("auto", servers.offload({ url: [URL_A, URL_B] }));
  const written = await captioner.caption(cat(), { maxNewTokens: 9, temperature: 0 });
  assert.deepEqual(
    [written.text, written.usage.completionTokens, written.answeredBy, written.answers.length],
    ["a big cat", 3, "server", 2],
  );
  assert.deepEqual(servers.chats[1]?.lenslet, { resume_tokens: [1, 2] });
  assert.deepEqual([servers.chats[1]?.max_tokens, controls.wishes.length], [9, 0]);
});

test("a question about a picture goes to the server with the picture", async () => {
  const servers = new Servers();
  const { controls, loadAnswerer } = bench();
  const answerer = await loadAnswerer("auto", servers.offload());
  const answer = await answerer.ask(cat(), "what is it?");
  assert.deepEqual([answer.text, answer.answeredBy, controls.seen], ["a big cat", "server", 0]);
  const url = `data:image/png;base64,${btoa("cat")}`;
  const content = [
    { type: "image_url", image_url: { url } },
    { type: "text", text: "what is it?" },
  ];
  assert.deepEqual(servers.chats[0]?.messages, [{ role: "user", content }]);
});

test("a text that the server refuses is written here; what its interface cannot say is not asked", async () => {
  const servers = new Servers();
  const { loadGenerator } = bench();
  const generator = await loadGenerator("auto", servers.offload());
  const chat = [{ role: "user", content: "hello" }];
  assert.equal((await generator.generate(chat)).answeredBy, "server");
  const raw = await generator.generate("one two");
  assert.deepEqual([raw.text, raw.reason], ["one two", "unsupported"]);
  assert.equal((await generator.generate(chat, { topK: 3 })).reason, "unsupported");
  servers.instead.set("a.example", refusal(400));
  const refused = await generator.generate(chat);
  assert.deepEqual([refused.text, refused.reason], ["user: hello", "server_rejected"]);
  // Its fault was the request's, so the next one is sent.
  servers.instead.clear();
  const next = await generator.generate(chat, { temperature: 0 });
  assert.equal(next.reason, "faster");
});

test("forbidding in the middle of a text ends the server's part", async () => {
  const servers = new Servers();
  const offload = servers.offload();
  const captioner = await bench().loadCaptioner("auto", offload);
  const stream = captioner.stream(cat());
  assert.equal((await stream.next()).value, "a ");
  offload.privacy = "local-only";
  const { length } = servers.sent;
  let rest = "";
  for await (const piece of stream) {
    rest += piece;
  }
  assert.equal(rest, "cat");
  assert.deepEqual(stream.answers.at(-1), { answeredBy: "local", reason: "local_only" });
  assert.equal(servers.sent.length, length);
});

test("aborting a server's text rejects at once, and asks nobody else", async () => {
  const servers = new Servers();
  const { controls, loadCaptioner } = bench();
  const captioner = await loadCaptioner("auto", servers.offload());
  const controller = new AbortController();
  const stream = captioner.stream(cat(), { signal: controller.signal });
  await stream.next();
  controller.abort();
  await assert.rejects(stream.next(), isAbort);
  await soon();
  assert.deepEqual([controls.open, controls.wishes.length], [0, 0]);
});

test("a call that neither side can answer is a typed error", async () => {
  const servers = new Servers();
  const { client } = bench();
  const offload = servers.offload();
  const info = { device: "server", adapter: URL_A, dim: 4, fingerprint: "model-a" } as const;
  const tower = new DualTower({ model: "fake", info, client, offload, absent: "memory" });
  const index = await ImageIndex.open("x", tower);
  await index.add([{ path: "cat.png", blob: cat }]);
  const hits = await index.search("cat");
  assert.deepEqual([hits[0]?.path, hits.reason], ["cat.png", "memory"]);
  servers.instead.set("a.example", refusal(503));
  const dead = (error: unknown) =>
    error instanceof ServerError && error.kind === "server_unavailable";
  await assert.rejects(index.search("cat"), dead);
  await assert.rejects(tower.embedTexts(["cat"]), dead);
  offload.privacy = "local-only";
  await assert.rejects(
    index.search("cat"),
    (error) => error instanceof ServerError && error.kind === "local_only",
  );
});

/** A worker for `loadDualTower` and its kin, in which loading fails with `error` if there is one. */
function worker(error?: Error) {
  const around = {
    ...BROWSER,
    wasmVariant: () => "simd" as const,
    probeAdapter: async () => undefined,
    openStore: async () => new MemoryFiles(),
    loadWasm: async () => fakeWasm(controls(), "model-a"),
    fetchModel: async () => {
      if (error) {
        throw error;
      }
      return [{ name: "tokenizer.json", bytes: words }];
    },
  };
  return { createWorker: () => new LoopbackWorker(around) as unknown as Worker };
}

test("a model that does not fit this device is the server's, if that is allowed", async () => {
  const full = new LoadError("memory", "the model's files are more than this device has room for");
  const servers = new Servers();
  const tower = await loadDualTower("https://x/m", { ...worker(full), offload: servers.offload() });
  assert.deepEqual([tower.device, tower.fingerprint, tower.dim], ["server", "model-a", 4]);
  const [vector] = await tower.embedTexts(["cat"]);
  assert.deepEqual([vector?.answeredBy, vector?.reason], ["server", "memory"]);
  assert.deepEqual(await tower.memory(), { host: 0, device: 0 });
  await tower.dispose();
  for (const options of [
    { offload: servers.offload({ privacy: "local-only" }) },
    { offload: servers.offload(), device: "wasm" as const },
    {},
  ]) {
    const { length } = servers.sent;
    await assert.rejects(
      loadDualTower("https://x/m", { ...worker(full), ...options }),
      (error) => error instanceof LoadError && error.kind === "memory",
    );
    assert.equal(servers.sent.length, length);
  }
});

test("device server loads nothing here, and says so where the server cannot be asked", async () => {
  const never = new LoadError("network", "nothing may be loaded");
  const servers = new Servers();
  const options = { ...worker(never), device: "server" as const };
  const captioner = await loadCaptioner("https://x/m", { ...options, offload: servers.offload() });
  assert.equal((await captioner.caption(cat())).text, "a big cat");
  servers.instead.set("a.example", unreachable);
  await assert.rejects(
    loadCaptioner("https://x/m", { ...options, offload: servers.offload() }),
    (error) => error instanceof ServerError && error.kind === "server_unreachable",
  );
  await assert.rejects(
    loadCaptioner("https://x/m", {
      ...options,
      offload: servers.offload({ privacy: "local-only" }),
    }),
    (error) => error instanceof ServerError && error.kind === "local_only",
  );
  await assert.rejects(loadCaptioner("https://x/m", options), ServerError);
});

test("loading measures a first run, so that the first call is weighed too", async () => {
  const servers = new Servers();
  const offload = servers.offload({ localMs: {} });
  await loadDualTower("https://x/m", { ...worker(), offload });
  assert.ok((offload.times("m").localMs({ text: 1, image: 1 }) ?? -1) >= 0);
  const silent = servers.offload({ localMs: {}, privacy: "local-only" });
  await loadDualTower("https://x/m", { ...worker(), offload: silent });
  assert.equal(silent.times("m").localMs({ text: 1 }), undefined);
});

test("a model that breaks here is the server's, for that call", async () => {
  const servers = new Servers();
  const offload = servers.offload({ localMs: { text: 0, prompt: 0, token: 0 } });
  const { controls, load, loadCaptioner } = bench();
  const tower = await load("auto", offload);
  controls.beforeEmbed = () => {
    throw new RunError("trap", "out of memory");
  };
  const [vector] = await tower.embedTexts(["cat"]);
  assert.deepEqual([vector?.answeredBy, vector?.reason], ["server", "local_failed"]);
  delete controls.beforeEmbed;
  const captioner = await loadCaptioner("auto", offload);
  controls.beforeStep = () => {
    throw new RunError("device_lost", "the GPU went away");
  };
  const written = await captioner.caption(cat());
  assert.deepEqual([written.text, written.answeredBy], ["a big cat", "server"]);
  servers.instead.set("a.example", unreachable);
  const lost = (error: unknown) => error instanceof RunError && error.kind === "device_lost";
  await assert.rejects(captioner.caption(cat()), lost);
  offload.privacy = "local-only";
  await assert.rejects(captioner.caption(cat()), lost);
});
