/**
 * The size that a picture file claims, read from its first bytes, before anything decodes it.
 */

/** Width and height in pixels, as stored (before EXIF orientation). */
export interface PictureSize {
  width: number;
  height: number;
}

/** How much of a file {@link pictureSize} wants: enough for a JPEG with large metadata before its frame. */
export const HEADER_BYTES = 256 * 1024;

/** Reads the size from a PNG, JPEG, GIF, WebP or BMP header; nothing if it is none of them or cut short. */
export function pictureSize(head: Uint8Array): PictureSize | undefined {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  try {
    return pngSize(view) ?? jpegSize(view) ?? gifSize(view) ?? webpSize(view) ?? bmpSize(view);
  } catch (error) {
    if (error instanceof RangeError) {
      return undefined; // The header ends before the size.
    }
    throw error;
  }
}

function pngSize(view: DataView): PictureSize | undefined {
  if (view.getUint32(0) !== 0x89504e47 || view.getUint32(12) !== 0x49484452) {
    return undefined;
  }
  return { width: view.getUint32(16), height: view.getUint32(20) };
}

function jpegSize(view: DataView): PictureSize | undefined {
  if (view.getUint16(0) !== 0xffd8) {
    return undefined;
  }
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) {
      return undefined;
    }
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) {
      at += 1; // Padding.
    } else if (isFrame(marker)) {
      return { width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
    } else if (marker === 0xd9 || marker === 0xda) {
      return undefined;
    } else if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd7)) {
      at += 2; // Markers without a length.
    } else {
      at += 2 + view.getUint16(at + 2);
    }
  }
}

/** Start of frame: 0xC0 to 0xCF without the tables and the arithmetic-coding marker among them. */
function isFrame(marker: number): boolean {
  return marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
}

function gifSize(view: DataView): PictureSize | undefined {
  if (view.getUint32(0) !== 0x47494638) {
    return undefined;
  }
  return { width: view.getUint16(6, true), height: view.getUint16(8, true) };
}

function webpSize(view: DataView): PictureSize | undefined {
  if (view.getUint32(0) !== 0x52494646 || view.getUint32(8) !== 0x57454250) {
    return undefined;
  }
  switch (view.getUint32(12)) {
    case 0x56503820: // "VP8 "
      return {
        width: view.getUint16(26, true) & 0x3fff,
        height: view.getUint16(28, true) & 0x3fff,
      };
    case 0x5650384c: {
      // "VP8L"
      const bits = view.getUint32(21, true);
      return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 };
    }
    case 0x56503858: // "VP8X"
      return { width: uint24(view, 24) + 1, height: uint24(view, 27) + 1 };
    default:
      return undefined;
  }
}

function uint24(view: DataView, at: number): number {
  return view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
}

function bmpSize(view: DataView): PictureSize | undefined {
  if (view.getUint16(0) !== 0x424d) {
    return undefined;
  }
  return { width: Math.abs(view.getInt32(18, true)), height: Math.abs(view.getInt32(22, true)) };
}
