"""Saved files taken apart and put together again, for tests that damage them."""

import io
import zipfile

import numpy as np


def entries_of(path):
    """The bytes of each entry, by its name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(entries, compression=zipfile.ZIP_STORED):
    """The bytes of a file of these entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def npy(array):
    """The bytes of a .npy file, pickled objects and all."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(text, values=bytes(64)):
    """The bytes of a .npy file whose header says `text`."""
    data = text.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data + values
