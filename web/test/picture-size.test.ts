import assert from "node:assert/strict";
import { test } from "node:test";
import { PictureError } from "../ts/errors.js";
import { checkSize, decodePicture, drawnSize } from "../ts/picture.js";
import { pictureSize } from "../ts/picture-size.js";

const bytes = (...parts: (string | number[])[]): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(
    parts.flatMap((part) =>
      typeof part === "string" ? Array.from(Buffer.from(part, "latin1")) : part,
    ),
  );

const png = (width: number[], height: number[]): Uint8Array<ArrayBuffer> =>
  bytes([0x89], "PNG\r\n\x1a\n", [0, 0, 0, 13], "IHDR", width, height, [8, 6, 0, 0, 0]);

test("PNG", () => {
  assert.deepEqual(pictureSize(png([0, 0, 2, 128], [0, 0, 1, 224])), { width: 640, height: 480 });
});

test("JPEG: the frame is found behind metadata, padding and tables", () => {
  const jpeg = bytes(
    [0xff, 0xd8],
    [0xff, 0xe1, 0, 6, 1, 2, 3, 4],
    [0xff, 0xff, 0xc4, 0, 4, 9, 9],
    [0xff, 0xc2, 0, 17, 8, 1, 224, 2, 128, 3],
  );
  assert.deepEqual(pictureSize(jpeg), { width: 640, height: 480 });
});

test("GIF, BMP and the three kinds of WebP", () => {
  assert.deepEqual(pictureSize(bytes("GIF89a", [128, 2, 224, 1], new Array(8).fill(0))), {
    width: 640,
    height: 480,
  });
  const bmp = bytes("BM", new Array(16).fill(0), [128, 2, 0, 0], [32, 254, 255, 255]);
  assert.deepEqual(pictureSize(bmp), { width: 640, height: 480 });
  const riff = (kind: string, rest: number[]): Uint8Array =>
    bytes("RIFF", [0, 0, 0, 0], "WEBP", kind, rest);
  assert.deepEqual(pictureSize(riff("VP8X", [...new Array(8).fill(0), 127, 2, 0, 223, 1, 0])), {
    width: 640,
    height: 480,
  });
  assert.deepEqual(pictureSize(riff("VP8 ", [...new Array(10).fill(0), 128, 2, 224, 1])), {
    width: 640,
    height: 480,
  });
  const packed = 639 | (479 << 14);
  const lossless = [0, 8, 16, 24].map((shift) => (packed >>> shift) & 0xff);
  assert.deepEqual(pictureSize(riff("VP8L", [0, 0, 0, 0, 0x2f, ...lossless])), {
    width: 640,
    height: 480,
  });
});

test("anything else, and a header that is cut short, has no known size", () => {
  assert.equal(pictureSize(bytes("<svg xmlns='http://www.w3.org/2000/svg'/>")), undefined);
  assert.equal(pictureSize(png([0, 0, 2, 128], []).subarray(0, 20)), undefined);
  assert.equal(pictureSize(bytes([0xff, 0xd8, 0xff, 0xe1, 0xff, 0xff])), undefined);
  assert.equal(pictureSize(new Uint8Array()), undefined);
});

test("pictures of no pixels and of more than 100 megapixels are refused", () => {
  const kind = (kind: string) => (error: unknown) =>
    error instanceof PictureError && error.kind === kind;
  assert.throws(() => checkSize({ width: 0, height: 5 }), kind("image_empty"));
  assert.throws(() => checkSize({ width: 20_000, height: 5_001 }), kind("image_too_large"));
  checkSize({ width: 10_000, height: 10_000 });
});

test("a header's claim is refused before anything decodes the picture", async () => {
  const bomb = new Blob([png([0, 1, 0, 0], [0, 1, 0, 0])]);
  await assert.rejects(
    decodePicture(bomb),
    (error) =>
      error instanceof PictureError &&
      error.kind === "image_too_large" &&
      /65536/.test(error.message),
  );
  await assert.rejects(
    decodePicture(new Blob([])),
    (error) => error instanceof PictureError && error.kind === "image_empty",
  );
});

test("very large pictures are halved until they are small enough", () => {
  assert.deepEqual(drawnSize({ width: 4000, height: 4000 }), { width: 4000, height: 4000 });
  assert.deepEqual(drawnSize({ width: 8000, height: 6000 }), { width: 4000, height: 3000 });
  assert.deepEqual(drawnSize({ width: 10_000, height: 10_000 }), { width: 2500, height: 2500 });
});
