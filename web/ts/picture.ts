/**
 * Pictures on their way to the model: what callers hand in, and their pixels.
 */

import { PictureError } from "./errors.js";
import { HEADER_BYTES, type PictureSize, pictureSize } from "./picture-size.js";

/** What {@link DualTower.embedImages} accepts. A `File` is a `Blob`. */
export type ImageSource = Blob | ImageBitmap | ImageData | HTMLImageElement;

/** The forms in which a picture reaches the worker. */
export type SentPicture = Blob | ImageBitmap | ImageData;

/** Pixels as the runtime takes them: rows of RGBA, not premultiplied. */
export interface Pixels {
  width: number;
  height: number;
  rgba: Uint8ClampedArray;
}

/** Pictures that claim more are refused unread: decoding one would take 400 MB. */
export const MAX_PIXELS = 100_000_000;

/**
 * Pictures above this are halved, several times if need be, while they are drawn. Models look at a few
 * hundred pixels a side; the wasm heap should not grow to hold a camera's full frame, because it never
 * shrinks again.
 */
const FULL_DETAIL_PIXELS = 16_000_000;

/**
 * The picture in a form that a worker can take, and what of it moves instead of being copied. The caller's
 * own bitmap stays usable: a copy of it travels.
 */
export async function sendable(
  source: ImageSource,
): Promise<{ picture: SentPicture; transfer: Transferable[] }> {
  if (source instanceof Blob) {
    return { picture: source, transfer: [] };
  }
  if (typeof ImageData === "function" && source instanceof ImageData) {
    return { picture: source, transfer: [] };
  }
  const bitmap = await toBitmap(source as ImageBitmap | HTMLImageElement);
  return { picture: bitmap, transfer: [bitmap] };
}

/** The formats that a server reads. */
const COMMON = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];

/** How large the picture's file is, or about how large it would be. */
export function sizeAsFile(source: ImageSource): number {
  if (source instanceof Blob) {
    return source.size;
  }
  const element = typeof HTMLImageElement === "function" && source instanceof HTMLImageElement;
  const { width, height } = element
    ? { width: source.naturalWidth, height: source.naturalHeight }
    : source;
  return width * height;
}

/** The picture as a file of a common format: the file that it is, or a PNG. */
export async function asFile(source: ImageSource): Promise<Blob> {
  if (source instanceof Blob && COMMON.includes(source.type)) {
    return source;
  }
  const bitmap =
    typeof ImageData === "function" && source instanceof ImageData
      ? await createImageBitmap(source, { premultiplyAlpha: "none" })
      : await toBitmap(source as Blob | ImageBitmap | HTMLImageElement);
  try {
    checkSize(bitmap);
    const { width, height } = drawnSize(bitmap);
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    if (!context) {
      throw new PictureError("no_canvas", "this browser cannot draw pictures");
    }
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, width, height);
    return await canvas.convertToBlob({ type: "image/png" });
  } finally {
    bitmap.close();
  }
}

async function toBitmap(source: Blob | ImageBitmap | HTMLImageElement): Promise<ImageBitmap> {
  try {
    return await createImageBitmap(source, {
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
      colorSpaceConversion: "default",
    });
  } catch (cause) {
    throw new PictureError("image_corrupt", "the picture is damaged or of an unknown format", {
      cause,
    });
  }
}

/** Reads a picture's pixels. EXIF orientation and colour profile are applied; transparency is kept. */
export async function decodePicture(picture: SentPicture): Promise<Pixels> {
  if (typeof ImageData === "function" && picture instanceof ImageData) {
    checkSize(picture);
    return { width: picture.width, height: picture.height, rgba: byteData(picture) };
  }
  if (picture instanceof Blob) {
    if (picture.size === 0) {
      throw new PictureError("image_empty", "the file is empty");
    }
    const head = await picture.slice(0, HEADER_BYTES).arrayBuffer().catch(unreadableFile);
    const claimed = pictureSize(new Uint8Array(head));
    if (claimed) {
      checkSize(claimed);
    }
  }
  const bitmap = picture instanceof Blob ? await toBitmap(picture) : (picture as ImageBitmap);
  try {
    checkSize(bitmap);
    return draw(bitmap);
  } finally {
    bitmap.close();
  }
}

function unreadableFile(cause: unknown): never {
  throw new PictureError("image_unavailable", "the file cannot be read any more", { cause });
}

function byteData(image: ImageData): Uint8ClampedArray {
  const data: unknown = image.data;
  if (data instanceof Uint8ClampedArray) {
    return data;
  }
  throw new PictureError("image_unsupported", "ImageData with half-float pixels is not supported");
}

/** Refuses sizes of zero and sizes above {@link MAX_PIXELS}. */
export function checkSize({ width, height }: PictureSize): void {
  if (width === 0 || height === 0) {
    throw new PictureError("image_empty", `the picture has no pixels (${width} x ${height})`);
  }
  if (width * height > MAX_PIXELS) {
    throw new PictureError(
      "image_too_large",
      `the picture claims ${width} x ${height} pixels; at most ${MAX_PIXELS / 1e6} megapixels are read`,
    );
  }
}

/** The size at which a picture is drawn. */
export function drawnSize({ width, height }: PictureSize): PictureSize {
  let halvings = 0;
  while ((width * height) / 4 ** halvings > FULL_DETAIL_PIXELS) {
    halvings += 1;
  }
  const scale = 2 ** halvings;
  return {
    width: Math.max(1, Math.round(width / scale)),
    height: Math.max(1, Math.round(height / scale)),
  };
}

function draw(bitmap: ImageBitmap): Pixels {
  const { width, height } = drawnSize(bitmap);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) {
    throw new PictureError("no_canvas", "this browser cannot read pictures in a worker");
  }
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  try {
    const { data } = context.getImageData(0, 0, width, height);
    return { width, height, rgba: data as Uint8ClampedArray };
  } catch (cause) {
    throw new PictureError("image_cross_origin", "the picture's pixels belong to another origin", {
      cause,
    });
  }
}
