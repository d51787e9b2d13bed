/**
 * Files that a visitor hands over: dropped, with whole folders, or chosen.
 */

/** A file and the path under which it was dropped. */
export interface DroppedFile {
  file: File;
  path: string;
}

const PICTURE = /\.(avif|bmp|gif|jpe?g|png|webp|svg|ico)$/i;

const isPicture = (file: File): boolean =>
  file.type.startsWith("image/") || PICTURE.test(file.name);

/** The pictures among chosen files. */
export function fromPicker(files: Iterable<File>): DroppedFile[] {
  return Array.from(files)
    .filter(isPicture)
    .map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}

/** The pictures in a drop, folders searched through. Must be called while the drop event is handled. */
export async function fromDrop(transfer: DataTransfer): Promise<DroppedFile[]> {
  // The list dies with the event: entries first, reading later.
  const entries = Array.from(transfer.items, (item) =>
    item.kind === "file" ? (item.webkitGetAsEntry() ?? item.getAsFile()) : null,
  );
  const found = await Promise.all(
    entries.map((entry) =>
      entry instanceof File ? [{ file: entry, path: entry.name }] : entry ? walk(entry) : [],
    ),
  );
  return found.flat().filter(({ file }) => isPicture(file));
}

async function walk(entry: FileSystemEntry): Promise<DroppedFile[]> {
  if (isFile(entry)) {
    const file = await new Promise<File | undefined>((resolve) =>
      entry.file(resolve, () => resolve(undefined)),
    );
    return file ? [{ file, path: entry.fullPath.replace(/^\//, "") }] : [];
  }
  if (!isDirectory(entry)) {
    return [];
  }
  const reader = entry.createReader();
  const found: DroppedFile[] = [];
  // A reader hands out a hundred entries at a time, and none when it is through.
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve) =>
      reader.readEntries(resolve, () => resolve([])),
    );
    if (some.length === 0) {
      return found;
    }
    for (const inside of await Promise.all(some.map(walk))) {
      found.push(...inside);
    }
  }
}

const isFile = (entry: FileSystemEntry): entry is FileSystemFileEntry => entry.isFile;
const isDirectory = (entry: FileSystemEntry): entry is FileSystemDirectoryEntry =>
  entry.isDirectory;

/** Lets files be dropped anywhere on the page, and shows that they can be. */
export function onDrop(zone: HTMLElement, take: (files: Promise<DroppedFile[]>) => void): void {
  let depth = 0;
  const hasFiles = (event: DragEvent): boolean =>
    event.dataTransfer?.types.includes("Files") ?? false;
  const show = (visible: boolean): void => {
    zone.classList.toggle("visible", visible);
  };
  addEventListener("dragenter", (event) => {
    if (hasFiles(event)) {
      depth += 1;
      show(true);
    }
  });
  addEventListener("dragleave", (event) => {
    if (hasFiles(event)) {
      depth = Math.max(0, depth - 1);
      show(depth > 0);
    }
  });
  addEventListener("dragover", (event) => {
    if (hasFiles(event)) {
      event.preventDefault();
    }
  });
  addEventListener("drop", (event) => {
    if (event.dataTransfer && hasFiles(event)) {
      event.preventDefault();
      depth = 0;
      show(false);
      take(fromDrop(event.dataTransfer));
    }
  });
}
