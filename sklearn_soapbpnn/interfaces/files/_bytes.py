"""Bytes of a model file: safetensors with a JSON header and a checksum of the whole file."""

import re
from hashlib import blake2b

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..._version import __version__
from ._values import check_entries, read_json, write_json

FORMAT = "sklearn_soapbpnn"
FORMAT_VERSION = 1
LARGEST_HEADER = 100_000_000  # bytes, as in safetensors
# replaces the checksum in the file while the checksum is computed
BLANK = b"0" * 64
# occurs only once, since quotes inside the model's JSON are escaped
CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')
DTYPES = ("F32", "F64")
ZIP = b"PK\x03\x04"  # first bytes of archives


def pack(header, tensors):
    """Return the bytes of a file.

    Parameters
    ----------
    header : dict
        Values that JSON can represent.
    tensors : dict of str to array
        Arrays in float32 or float64.
    """
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "model": write_json(header),
        "checksum": BLANK.decode(),
    }
    # safetensors needs contiguous arrays; ascontiguousarray turns numbers into arrays of shape (1,)
    tensors = {n: np.ascontiguousarray(a).reshape(np.shape(a)) for n, a in tensors.items()}
    return seal(save(tensors, metadata))


def seal(content):
    """Insert the checksum of all other bytes."""
    place, checksum = _compute_checksum(content)
    return content[: place.start] + checksum + content[place.stop :]


def unpack(content):
    """Return the header and the tensors of a file.

    Raises
    ------
    ValueError
        If these are not bytes from :func:`pack`.
    """
    length = header_size(content)
    if content.startswith(ZIP):
        raise ValueError(
            "it is an archive, as export and torch.save write them. Pass the file that model.save "
            "has written"
        )
    if not 2 <= length <= len(content) - 8:
        raise ValueError("it is not a safetensors file, or is incomplete")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header of {length} bytes is beyond the limit of {LARGEST_HEADER}")
    header = read_json(content[8 : 8 + length].decode())
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(f"it is not a file of the format {FORMAT!r}")
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        raise ValueError(
            f"it has the format version {version!r}, which this version of sklearn_soapbpnn, "
            f"{__version__}, cannot read. Update sklearn_soapbpnn"
        )
    entries = ("format", "format_version", "model", "checksum")
    check_entries(metadata, dict.fromkeys(entries, str), "its metadata")
    place, checksum = _compute_checksum(content)
    if content[place] != checksum:
        raise ValueError("it is damaged: its checksum is wrong")
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES:
            raise ValueError(f"the tensor {name!r} must be float32 or float64")
    try:
        tensors = load(content)
    except SafetensorError as err:
        raise ValueError(f"it is not a safetensors file: {err}") from err
    return read_json(metadata["model"]), tensors


def header_size(content):
    """Return the size of the JSON header in bytes, which the first eight bytes contain."""
    return int.from_bytes(content[:8], "little")


def _compute_checksum(content):
    """Return the position of the checksum, as a slice, and its correct value."""
    found = [match.span(1) for match in CHECKSUM.finditer(content, 8, 8 + header_size(content))]
    if len(found) != 1:
        raise ValueError("it is damaged: it must have exactly one checksum")
    (place,) = (slice(*span) for span in found)
    view, digest = memoryview(content), blake2b(digest_size=len(BLANK) // 2)
    for part in (view[: place.start], BLANK, view[place.stop :]):
        digest.update(part)
    return place, digest.hexdigest().encode()
