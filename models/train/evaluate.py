"""Measure the bundled models with ONNX Runtime; the figures of the model cards and of the gallery's queries come from here.

    pip install numpy onnxruntime pillow tokenizers
    python evaluate.py retrieval MODEL_FOLDER openmoji.json [--fp32 FOLDER]   # R@1, R@5, R@10 of names over their pictures
    python evaluate.py cosine MODEL_FOLDER --fp32 FOLDER PICTURE...           # bundled image tower against the fp32 one
    python evaluate.py queries ../gallery [--fp32-photos DIR] [--fp32-emoji DIR] [--write]

`retrieval` reads [{"file", "en", "zh", "es"}, ...]. `queries` searches the gallery for each line of queries.json and prints the rank
of the first picture that counts as right; --write stores it in the line's "measured". A folder for --fp32 holds
vision_model.onnx and text_model.onnx.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from reference import Preprocessor, Tower, Words, cosine, open_rgb, unit


def one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{folder}: {len(found)} files match {pattern}, one is needed")
    return found[0]


class Model:
    def __init__(self, folder: Path, fp32: Path | None = None):
        graphs = fp32 or folder / "onnx"
        suffix = "" if fp32 else "*"
        self.preprocess, self.words = Preprocessor(folder), Words(folder)
        self.vision = Tower(one(graphs, f"vision_model{suffix}.onnx"))
        self.reader = Tower(one(graphs, f"text_model{suffix}.onnx"))

    def image(self, path) -> np.ndarray:
        return unit(self.vision.image(self.preprocess(open_rgb(path))))

    def text(self, text: str) -> np.ndarray:
        return unit(self.reader.text(self.words(text)))


def retrieval(args) -> None:
    entries = json.loads(args.list.read_text())
    models = {"bundled": Model(args.model)} | ({"fp32": Model(args.model, args.fp32)} if args.fp32 else {})
    images = {name: np.array([m.image(args.list.parent / e["file"]) for e in entries]) for name, m in models.items()}
    for language in ("en", "zh", "es"):
        texts = {name: np.array([m.text(e[language]) for e in entries]) for name, m in models.items()}
        for image_name, rows in images.items():
            for text_name, columns in texts.items():
                scores = columns @ rows.T
                ranks = (scores > np.diag(scores)[:, None]).sum(1)
                print(language, f"image {image_name}, text {text_name}:", *(f"R@{k} {(ranks < k).mean():.4f}" for k in (1, 5, 10)))


def compare(args) -> None:
    small, full = Tower(one(args.model / "onnx", "vision_model*.onnx")), Tower(args.fp32 / "vision_model.onnx")
    preprocess = Preprocessor(args.model)
    values = []
    for picture in args.pictures:
        pixels = preprocess(open_rgb(picture))
        values.append(float(cosine(small.image(pixels), full.image(pixels))))
    worst = int(np.argmin(values))
    print(f"{len(values)} pictures: mean {np.mean(values):.6f}, least {values[worst]:.6f} ({args.pictures[worst].name})")


def queries(args) -> None:
    path = args.gallery / "queries.json"
    table = json.loads(path.read_text())
    bundled = Path(__file__).resolve().parent.parent / "bundled"
    for part, name, fp32 in (("photos", "photo-search", args.fp32_photos), ("emoji", "emoji-clip", args.fp32_emoji)):
        files = sorted(p for p in (args.gallery / part).iterdir() if p.suffix in (".jpg", ".png"))
        for precision, model in [("bundled", Model(bundled / name))] + ([("fp32", Model(bundled / name, fp32))] if fp32 else []):
            rows = np.array([model.image(file) for file in files])
            for line in table[part]:
                order = np.argsort(-(rows @ model.text(line["query"])))
                names = [files[i].name for i in order]
                missing = set(line["expect"]) - set(names)
                if missing:
                    raise SystemExit(f"{line['query']}: not in the gallery: {', '.join(sorted(missing))}")
                rank = 1 + min(names.index(file) for file in line["expect"])
                line.setdefault("measured", {})[precision] = rank
                print(f"{part} {precision:8} rank {rank:3}  {line['query']}: {', '.join(names[:5])}")
    if args.write:
        rows = {part: ",\n".join("  " + json.dumps(line, ensure_ascii=False) for line in table[part]) for part in ("photos", "emoji")}
        head = json.dumps(table["about"], ensure_ascii=False)
        path.write_text(f'{{\n "about": {head},\n' + ",\n".join(f' "{part}": [\n{text}\n ]' for part, text in rows.items()) + "\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("retrieval")
    command.add_argument("model", type=Path)
    command.add_argument("list", type=Path)
    command.add_argument("--fp32", type=Path)
    command.set_defaults(run=retrieval)
    command = commands.add_parser("cosine")
    command.add_argument("model", type=Path)
    command.add_argument("--fp32", type=Path, required=True)
    command.add_argument("pictures", type=Path, nargs="+")
    command.set_defaults(run=compare)
    command = commands.add_parser("queries")
    command.add_argument("gallery", type=Path)
    command.add_argument("--fp32-photos", type=Path)
    command.add_argument("--fp32-emoji", type=Path)
    command.add_argument("--write", action="store_true")
    command.set_defaults(run=queries)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
