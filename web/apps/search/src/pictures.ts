import type { ImageItem } from "lenslet";

/** Who made a picture and what may be done with it. */
export interface Credit {
  author?: string | undefined;
  license?: string | undefined;
  source?: string | undefined;
  origin?: string | undefined;
}

/** A picture as the page shows it. */
export interface Picture {
  path: string;
  title: string;
  alt: string;
  /** Where its pixels come from: a file of this page, or an object URL. */
  src: string;
  /** Width by height, if known before it is loaded. */
  aspect?: number | undefined;
  /** Further names, by language. */
  names?: { language: string; code: string; name: string }[];
  credit?: Credit | undefined;
  item: ImageItem;
}

/** One entry of `photos.json`, with what the build adds. */
interface PhotoEntry extends Credit {
  file: string;
  title: string;
  alt: string;
  width?: number;
  height?: number;
  bytes?: number;
  version?: number;
}

/** `emoji.json`. */
interface EmojiList {
  license: string;
  attribution: string;
  source: string;
  url?: string;
  items: {
    file: string;
    emoji: string;
    name: { en: string; zh: string; es: string };
    alt: string;
    bytes?: number;
    version?: number;
  }[];
}

async function fetchJson<T>(path: string): Promise<T> {
  const response = await fetch(path);
  if (!response.ok) {
    throw new Error(`${path}: the server answered ${response.status}`);
  }
  // The page's own file, made by the page's own build.
  return (await response.json()) as T;
}

async function fetchBlob(src: string): Promise<Blob> {
  const response = await fetch(src);
  if (!response.ok) {
    throw new Error(`${src}: the server answered ${response.status}`);
  }
  return response.blob();
}

/** The bundled photographs. */
export async function loadPhotos(): Promise<Picture[]> {
  const entries = await fetchJson<PhotoEntry[]>("gallery/photos.json");
  return entries.map(({ file, title, alt, width, height, bytes, version, ...credit }) => {
    const src = `gallery/photos/${encodeURIComponent(file)}`;
    return {
      path: file,
      title,
      alt,
      src,
      aspect: width && height ? width / height : undefined,
      credit,
      item: {
        path: file,
        blob: () => fetchBlob(src),
        size: bytes ?? 0,
        modified: version ?? 0,
      },
    };
  });
}

/** The bundled emoji. */
export async function loadEmoji(): Promise<Picture[]> {
  const list = await fetchJson<EmojiList>("gallery/emoji.json");
  const credit = {
    author: "OpenMoji",
    license: list.license,
    origin: list.url ?? "https://openmoji.org",
  };
  return list.items.map(({ file, emoji, name, alt, bytes, version }) => {
    const src = `gallery/emoji/${encodeURIComponent(file)}`;
    return {
      path: file,
      title: name.en,
      alt: alt || emoji,
      src,
      aspect: 1,
      names: [
        { language: "Chinese", code: "zh", name: name.zh },
        { language: "Spanish", code: "es", name: name.es },
      ],
      credit,
      item: {
        path: file,
        blob: () => fetchBlob(src),
        size: bytes ?? 0,
        modified: version ?? 0,
      },
    };
  });
}

/** A picture of the visitor's own. `path` tells files of the same name in different folders apart. */
export function ownPicture(file: File, path: string): Picture {
  return {
    path,
    title: file.name.replace(/\.[^.]+$/, ""),
    alt: `Your picture ${path}`,
    src: URL.createObjectURL(file),
    item: { path, blob: file, size: file.size, modified: file.lastModified },
  };
}
