/**
 * Fetches the files of a model folder: with progress, resumed when the connection breaks, checked, and kept
 * by content for the next visit.
 */

import { isAbort, LoadError, throwIfAborted } from "./errors.js";
import { fileUrl } from "./model-url.js";
import type { FileStore } from "./private-files.js";
import type { LoadMeter } from "./progress.js";
import { sha256 } from "./sha256.js";

/** One file of a model, whole. */
export interface ModelFile {
  name: string;
  bytes: Uint8Array<ArrayBuffer>;
}

/** An entry of `lenslet.json`. */
export interface ManifestEntry {
  path: string;
  bytes: number;
  sha256: string;
}

/** What fetching needs besides the address. */
export interface FetchContext {
  meter: LoadMeter;
  signal?: AbortSignal | undefined;
  /** Where checked files are kept; absent if the caller wants no cache. */
  store?: FileStore | undefined;
  /** A model whose files are larger in all is not fetched. Only a manifest tells before. */
  mostBytes?: number | undefined;
  fetch?: typeof fetch;
}

const MANIFEST = "lenslet.json";
const TRIES = 3;

/** What a model does, which says how its files are called. */
export type ModelKind = "dual-tower" | "captioner" | "answerer" | "text-generator";

/** The files of a folder that has no manifest, as the common exporters name them. */
interface Convention {
  required: readonly string[];
  optional: readonly string[];
  /** Sets of graphs; the first that is there whole is fetched. */
  graphs: readonly (readonly string[])[];
}

const DECODERS = [["decoder_model_merged"], ["decoder_model", "decoder_with_past_model"]] as const;
const WRITING = [
  "config.json",
  "generation_config.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
] as const;
const TEMPLATES = ["chat_template.jinja", "chat_template.json"] as const;

const CONVENTIONS: Readonly<Record<ModelKind, Convention>> = {
  "dual-tower": {
    required: ["preprocessor_config.json", "tokenizer.json"],
    optional: [
      "config.json",
      "tokenizer_config.json",
      "special_tokens_map.json",
      "sentence_bert_config.json",
      "1_Pooling/config.json",
    ],
    graphs: [["vision_model", "text_model"], ["model"]],
  },
  captioner: {
    required: ["preprocessor_config.json", "tokenizer.json"],
    optional: WRITING,
    graphs: DECODERS.map((decoder) => ["encoder_model", ...decoder]),
  },
  answerer: {
    required: ["preprocessor_config.json", "tokenizer.json"],
    optional: [...WRITING, ...TEMPLATES],
    graphs: [["vision_encoder", "embed_tokens"], ["encoder_model"]].flatMap((encoder) =>
      DECODERS.map((decoder) => [...encoder, ...decoder]),
    ),
  },
  "text-generator": {
    required: ["tokenizer.json"],
    optional: [...WRITING, ...TEMPLATES],
    graphs: [["model"], ...DECODERS],
  },
};

const GRAPH_FOLDERS = ["", "onnx/"] as const;

/**
 * All files of the model in `folder`. With a `lenslet.json` exactly the files it lists, each checked against
 * its SHA-256; without one, the names that exporters use, with `variant` (`"quantized"`, `"fp16"`…) choosing
 * among precisions.
 */
export async function fetchModel(
  folder: string,
  kind: ModelKind,
  variant: string | undefined,
  context: FetchContext,
): Promise<ModelFile[]> {
  const manifest = await fetchManifest(folder, context);
  if (!manifest) {
    return fetchByConvention(folder, CONVENTIONS[kind], variant, context);
  }
  const needed = selectFiles(manifest, kind, variant);
  const bytes = needed.reduce((sum, entry) => sum + entry.bytes, 0);
  if (context.mostBytes !== undefined && bytes > context.mostBytes) {
    const what = `the model's ${bytes} bytes are more than this device has room for`;
    throw new LoadError("memory", what);
  }
  for (const entry of needed) {
    context.meter.expect(entry.path, entry.bytes);
  }
  return Promise.all(needed.map((entry) => fetchListed(folder, entry, context)));
}

async function fetchManifest(
  folder: string,
  context: FetchContext,
): Promise<ManifestEntry[] | undefined> {
  const key = `manifests/${await sha256(new TextEncoder().encode(folder))}`;
  const kept = await context.store?.read(key).catch(() => undefined);
  let text: string;
  try {
    const response = await request(fileUrl(folder, MANIFEST), context, { cache: "no-cache" });
    if (isMissing(response)) {
      await response.body?.cancel();
      return undefined;
    }
    text = await okay(response, MANIFEST).text();
  } catch (error) {
    if (isAbort(error) || !kept) {
      throw error;
    }
    text = new TextDecoder().decode(kept); // Offline: what the last visit saw.
  }
  const manifest = parseManifest(text);
  await forgetReplaced(kept, manifest, context.store);
  await context.store?.write(key, new TextEncoder().encode(text)).catch(() => undefined);
  return manifest;
}

/** Reads `lenslet.json`, refusing anything that is not of its form. */
export function parseManifest(text: string): ManifestEntry[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new LoadError("bad_manifest", `${MANIFEST} is not JSON`, { cause });
  }
  const files = isRecord(value) ? value.files : undefined;
  if (!Array.isArray(files) || files.length === 0 || !files.every(isEntry)) {
    throw new LoadError(
      "bad_manifest",
      `${MANIFEST} must have "files": a list of {path, bytes, sha256}`,
    );
  }
  return files;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function isEntry(value: unknown): value is ManifestEntry {
  return (
    isRecord(value) &&
    typeof value.path === "string" &&
    Number.isSafeInteger(value.bytes) &&
    typeof value.sha256 === "string" &&
    /^[0-9a-f]{64}$/.test(value.sha256)
  );
}

const GRAPH =
  /^(?<stem>(?:.*\/)?(?:vision_model|text_model|vision_encoder|embed_tokens|encoder_model|decoder_model_merged|decoder_with_past_model|decoder_model|model))(?:_(?<variant>\w+))?\.onnx(?:_data.*|\.data)?$/;

/** Among several precisions of a graph, and no wish of the caller's, the first of these that is there. */
const PREFERRED = ["quantized", "int8", "fp16", ""];

/** The files to fetch: the graphs of a model of this kind, each in one precision, and everything that is no graph. */
export function selectFiles(
  manifest: readonly ManifestEntry[],
  kind: ModelKind,
  variant: string | undefined,
): ManifestEntry[] {
  const variants = new Map<string, Set<string>>();
  const graphs = manifest.map(({ path }) => {
    const groups = GRAPH.exec(path)?.groups;
    if (!groups) {
      return undefined;
    }
    const graph = { stem: groups.stem ?? "", variant: groups.variant ?? "" };
    variants.set(graph.stem, (variants.get(graph.stem) ?? new Set()).add(graph.variant));
    return graph;
  });
  // Folders often hold a model in several forms: whole and in two towers, merged and in two graphs.
  const wanted = wantedGraphs(kind, Array.from(variants.keys(), bareName));
  const chosen = new Map(
    Array.from(variants)
      .filter(([stem]) => wanted.includes(bareName(stem)))
      .map(([stem, known]) => [stem, choose(stem, known, variant)] as const),
  );
  return manifest.filter((_, i) => {
    const graph = graphs[i];
    return graph === undefined || chosen.get(graph.stem) === graph.variant;
  });
}

/** The first set of graphs that is there whole; all that are there if none is, so that what is missing can be named. */
function wantedGraphs(kind: ModelKind, present: readonly string[]): readonly string[] {
  const sets = CONVENTIONS[kind].graphs;
  return sets.find((set) => set.every((stem) => present.includes(stem))) ?? present;
}

const bareName = (stem: string): string => stem.slice(stem.lastIndexOf("/") + 1);

/** A graph that there is only once needs no choice: a text tower may have another precision than its twin. */
function choose(stem: string, known: ReadonlySet<string>, wanted: string | undefined): string {
  const [only] = known;
  if (known.size === 1 && only !== undefined) {
    return only;
  }
  const order = wanted === undefined ? PREFERRED : [wanted];
  const found = order.find((variant) => known.has(variant));
  if (found === undefined) {
    const list = Array.from(known, (variant) => variant || "(none)").join(", ");
    throw new LoadError("no_such_variant", `${stem} is there in the variants ${list}: choose one`);
  }
  return found;
}

/** Drops kept files that only the previous version of this model used. */
async function forgetReplaced(
  kept: Uint8Array | undefined,
  manifest: readonly ManifestEntry[],
  store: FileStore | undefined,
): Promise<void> {
  if (!kept || !store) {
    return;
  }
  const current = new Set(manifest.map((entry) => entry.sha256));
  try {
    for (const entry of parseManifest(new TextDecoder().decode(kept))) {
      if (!current.has(entry.sha256)) {
        await store.remove(blobPath(entry));
      }
    }
  } catch {
    // A stale file costs room, not correctness.
  }
}

const blobPath = (entry: ManifestEntry): string => `blobs/${entry.sha256}`;

async function fetchListed(
  folder: string,
  entry: ManifestEntry,
  context: FetchContext,
): Promise<ModelFile> {
  const kept = await context.store?.read(blobPath(entry)).catch(() => undefined);
  if (kept?.length === entry.bytes && (await sha256(kept)) === entry.sha256) {
    context.meter.received(entry.path, kept.length);
    return { name: entry.path, bytes: kept };
  }
  const bytes = await download(folder, entry.path, context, entry.bytes);
  if (bytes.length !== entry.bytes) {
    throw new LoadError(
      "wrong_size",
      `${entry.path} has ${bytes.length} bytes, but ${MANIFEST} says ${entry.bytes}`,
    );
  }
  if ((await sha256(bytes)) !== entry.sha256) {
    throw new LoadError(
      "wrong_hash",
      `${entry.path} is damaged: its SHA-256 is not the expected one`,
    );
  }
  await context.store?.write(blobPath(entry), bytes).catch(() => undefined);
  return { name: entry.path, bytes };
}

async function fetchByConvention(
  folder: string,
  convention: Convention,
  variant: string | undefined,
  context: FetchContext,
): Promise<ModelFile[]> {
  const named = async (path: string): Promise<ModelFile> => ({
    name: path,
    bytes: await download(folder, path, context),
  });
  const optional = (path: string): Promise<ModelFile | undefined> =>
    named(path).catch((error: unknown) => {
      if (error instanceof LoadError && error.kind === "not_found") {
        return undefined;
      }
      throw error;
    });
  const graph = async (stem: string): Promise<ModelFile | undefined> => {
    const suffixes = variant === undefined ? ["_quantized", ""] : [variant && `_${variant}`];
    for (const inFolder of GRAPH_FOLDERS) {
      for (const suffix of suffixes) {
        const found = await optional(`${inFolder}${stem}${suffix}.onnx`);
        if (found) {
          return found;
        }
      }
    }
    return undefined;
  };
  const graphs = async (): Promise<ModelFile[]> => {
    for (const stems of convention.graphs) {
      const found = (await Promise.all(stems.map(graph))).filter((file) => file !== undefined);
      if (found.length === stems.length) {
        return found;
      }
    }
    const wanted = variant === undefined ? "" : ` in the variant "${variant}"`;
    const sets = convention.graphs.map((stems) =>
      stems.map((stem) => `${stem}.onnx`).join(" and "),
    );
    throw new LoadError(
      "not_found",
      `${folder} has no ${MANIFEST}, and neither ${sets.join(" nor ")}${wanted}`,
    );
  };
  const [required, extra, found] = await Promise.all([
    Promise.all(convention.required.map(named)),
    Promise.all(convention.optional.map(optional)),
    graphs(),
  ]);
  return [...required, ...extra, ...found].filter((file) => file !== undefined);
}

async function request(
  url: string,
  context: FetchContext,
  init: RequestInit = {},
): Promise<Response> {
  throwIfAborted(context.signal);
  try {
    return await (context.fetch ?? fetch)(url, { ...init, signal: context.signal ?? null });
  } catch (cause) {
    if (isAbort(cause)) {
      throw cause;
    }
    throw new LoadError("network", `${url} could not be fetched`, { cause });
  }
}

/** Servers of single-page apps answer every unknown address with their start page instead of 404. */
function isMissing(response: Response): boolean {
  const type = response.headers.get("content-type");
  return response.status === 404 || (response.ok && type?.startsWith("text/html") === true);
}

function okay(response: Response, path: string): Response {
  if (isMissing(response)) {
    throw new LoadError("not_found", `${response.url || path} is not there`);
  }
  if (!response.ok) {
    throw new LoadError("http", `${path}: the server answered ${response.status}`);
  }
  return response;
}

/** The bytes of one file. A connection that breaks is taken up again where it broke. */
async function download(
  folder: string,
  path: string,
  context: FetchContext,
  expected?: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const url = fileUrl(folder, path);
  const sink = new ByteSink(expected);
  let etag: string | null = null;
  for (let attempt = 1; ; attempt++) {
    const resume = sink.length > 0 && etag !== null;
    const headers: HeadersInit = resume
      ? { Range: `bytes=${sink.length}-`, "If-Range": etag ?? "" }
      : {};
    const response = okay(await request(url, context, { headers }), path);
    if (response.status !== 206) {
      sink.clear();
    }
    etag = response.headers.get("etag");
    const declared = Number(response.headers.get("content-length"));
    if (declared > 0 && !response.headers.has("content-encoding")) {
      sink.reserve(sink.length + declared);
      context.meter.expect(path, sink.length + declared);
    }
    try {
      await pour(response, sink, () => context.meter.received(path, sink.length));
      return sink.bytes();
    } catch (cause) {
      if (isAbort(cause)) {
        throw cause;
      }
      if (attempt >= TRIES) {
        throw new LoadError("network", `${path}: the connection broke ${TRIES} times`, { cause });
      }
    }
  }
}

async function pour(response: Response, sink: ByteSink, onBytes: () => void): Promise<void> {
  const reader = response.body?.getReader();
  if (!reader) {
    sink.push(new Uint8Array(await response.arrayBuffer()));
    onBytes();
    return;
  }
  for (let step = await reader.read(); !step.done; step = await reader.read()) {
    sink.push(step.value);
    onBytes();
  }
}

/** Gathers a stream into one buffer, which is as large as needed from the start if the length is known. */
class ByteSink {
  #buffer: Uint8Array<ArrayBuffer>;
  length = 0;

  constructor(expected = 0) {
    this.#buffer = new Uint8Array(expected);
  }

  reserve(total: number): void {
    if (total > this.#buffer.length) {
      const larger = new Uint8Array(total);
      larger.set(this.#buffer.subarray(0, this.length));
      this.#buffer = larger;
    }
  }

  push(chunk: Uint8Array): void {
    const total = this.length + chunk.length;
    if (total > this.#buffer.length) {
      this.reserve(Math.max(total, this.#buffer.length * 2));
    }
    this.#buffer.set(chunk, this.length);
    this.length = total;
  }

  clear(): void {
    this.length = 0;
  }

  bytes(): Uint8Array<ArrayBuffer> {
    return this.length === this.#buffer.length ? this.#buffer : this.#buffer.slice(0, this.length);
  }
}
