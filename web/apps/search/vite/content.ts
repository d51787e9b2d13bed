import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative, sep } from "node:path";
import type { Plugin } from "vite";
import { pictureSize } from "../../../dist/picture-size.js";

/** A file of the page that no module imports: where it is served, and its content. */
type Content = () => Buffer;

const MODELS = ["photo-search", "emoji-clip", "emoji-captioner"];
const MODEL_FILES = /\.(json|onnx|onnx_data|txt)$|^(LICENSE|README\.md|ATTRIBUTION\.md)$/;
const MANIFEST = "lenslet.json";

/**
 * The bundled models under `models/` and the galleries under `gallery/`, in the build and while developing.
 * Galleries gain each picture's size, so that the page lays out before pictures arrive, and a number that
 * changes with the file, so that an index notices. Models gain a `lenslet.json` if they lack one.
 */
export function bundledContent(folder: string): Plugin {
  const contents = new Map<string, Content>();

  const collect = (warn: (message: string) => void): void => {
    contents.clear();
    for (const model of MODELS) {
      const root = join(folder, "bundled", model);
      if (existsSync(root)) {
        addModel(contents, root, `models/${model}`);
      } else {
        warn(`no model ${model} in ${folder}/bundled: the page will not load it`);
      }
    }
    for (const gallery of ["photos", "emoji"]) {
      const list = join(folder, "gallery", `${gallery}.json`);
      if (existsSync(list)) {
        addGallery(contents, list, join(folder, "gallery", gallery), `gallery/${gallery}`);
      } else {
        warn(`no gallery ${list}: the page will show it as missing`);
      }
    }
  };

  return {
    name: "lenslet:content",
    buildStart() {
      collect((message) => this.warn(message));
    },
    generateBundle() {
      for (const [fileName, content] of contents) {
        this.emitFile({ type: "asset", fileName, source: content() });
      }
    },
    configureServer(server) {
      server.middlewares.use((request, response, next) => {
        const path = decodeURIComponent((request.url ?? "").split("?")[0] ?? "").slice(1);
        const content = contents.get(path);
        if (content) {
          response.end(content());
        } else if (/^(models|gallery)\//.test(path)) {
          response.statusCode = 404;
          response.end();
        } else {
          next();
        }
      });
    },
  };
}

function addModel(contents: Map<string, Content>, root: string, at: string): void {
  const files = walk(root).filter((file) => MODEL_FILES.test(file.split(sep).at(-1) ?? ""));
  for (const file of files) {
    contents.set(`${at}/${posix(file)}`, () => readFileSync(join(root, file)));
  }
  if (!files.includes(MANIFEST)) {
    const needed = files.filter((file) => /\.(json|onnx|onnx_data|txt)$/.test(file));
    contents.set(`${at}/${MANIFEST}`, () => manifest(root, needed));
  }
}

function manifest(root: string, files: readonly string[]): Buffer {
  const entries = files.map((file) => {
    const bytes = readFileSync(join(root, file));
    return { path: posix(file), bytes: bytes.length, sha256: digest(bytes) };
  });
  return Buffer.from(`${JSON.stringify({ files: entries }, null, 1)}\n`);
}

function addGallery(contents: Map<string, Content>, list: string, root: string, at: string): void {
  const parsed: unknown = JSON.parse(readFileSync(list, "utf8"));
  const items = itemsOf(parsed);
  for (const item of items) {
    const file = join(root, item.file);
    const bytes = readFileSync(file);
    Object.assign(item, pictureSize(bytes), {
      bytes: bytes.length,
      version: Number.parseInt(digest(bytes).slice(0, 8), 16),
    });
    contents.set(`${at}/${item.file}`, () => readFileSync(file));
  }
  contents.set(`${at}.json`, () => Buffer.from(JSON.stringify(parsed)));
}

function itemsOf(list: unknown): { file: string }[] {
  const items = typeof list === "object" && list !== null && "items" in list ? list.items : list;
  if (!Array.isArray(items) || !items.every((item) => typeof item?.file === "string")) {
    throw new Error("a gallery must be a list of {file, …}, or have one as `items`");
  }
  return items;
}

function walk(root: string, folder = root): string[] {
  return readdirSync(folder)
    .sort()
    .flatMap((name) => {
      const path = join(folder, name);
      return statSync(path).isDirectory() ? walk(root, path) : [relative(root, path)];
    });
}

const posix = (path: string): string => path.split(sep).join("/");
const digest = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
