"""Files that are there whole or not at all."""

import os
import secrets
import shutil

# characters of a file's name that its unfinished parts begin with
STEM = 40


def replace_file(path, write, durable=True):
    """Write a file at once: nobody sees half of it, and a killed process leaves the old one.

    Parameters
    ----------
    path : Path
        The file; its folder must exist.
    write : callable
        Called with the binary file to write to.
    durable : bool, default=True
        Whether the content must be on the disk before the file appears, which takes some
        milliseconds: not needed where damage is noticed and repaired.
    """
    # not tempfile, whose files other users of the folder cannot read
    part = path.with_name(f"{path.stem[:STEM]}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            if path.exists():
                shutil.copymode(path, part)
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(path):
    """Remove what killed processes left of a file."""
    for part in path.parent.glob(f"{path.stem[:STEM]}.*.part"):
        part.unlink(missing_ok=True)
