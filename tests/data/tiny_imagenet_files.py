"""Tiny ImageNet as a test draws it: a few grey images in the official layout, as tar, zip or folder."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

WNIDS = ("n03", "n01", "n02")  # not sorted: class numbers follow wnids.txt, not the alphabet


def jpeg(value, size=64, grey=False):
    file = io.BytesIO()
    pixels = np.full((size, size) if grey else (size, size, 3), value, np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=100)
    return file.getvalue()


def drawn_files():
    """A small set in the official layout; the grey value of an image says its class: 50, 100, 150."""
    files = {
        "wnids.txt": "\n".join(WNIDS).encode(),
        "words.txt": b"n01\tgoldfish, Carassius auratus\nn02\tbull frog\nn09\tunused\n",
        "val/val_annotations.txt": b"",
    }
    for number, wnid in enumerate(WNIDS):
        for i in range(10):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(50 * (number + 1), grey=i == 3)
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"ignored"
        for i in range(2):
            name = f"val_{number}{i}.JPEG"
            files[f"val/images/{name}"] = jpeg(50 * (number + 1))
            files["val/val_annotations.txt"] += f"{name}\t{wnid}\t0\t0\t62\t62\n".encode()
    return files


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{path.stem}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{path.stem}/{name}", content)


def write_folder(path, files):
    for name, content in files.items():
        file = path.with_suffix("") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


FORMS = {"tar": write_tar, "zip": write_zip, "folder": write_folder}
PLACES = {"tar": "tiny-imagenet-200.tar", "zip": "tiny-imagenet-200.zip", "folder": "tiny-imagenet-200.folder"}


def write_form(root, form, files, top="tiny-imagenet-200/"):
    """The files as a folder or an archive of a kind, below `top`."""
    path = root / f"tiny-imagenet-200{form}"
    if form == "":
        for name, content in files.items():
            file = root / "tiny-imagenet-200" / top.removeprefix("./").removeprefix("tiny-imagenet-200/") / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    elif form == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(top + name, content)
    else:
        with tarfile.open(path, "w" if form == ".tar" else "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(top + name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path
