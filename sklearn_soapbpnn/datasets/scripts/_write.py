"""Write labelled frames reproducibly: the same frames always give the same file."""

import gzip
import io
from pathlib import Path

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

DATA_FOLDER = Path(__file__).parents[1] / "data"
DECIMALS = 8


def round_geometry(atoms, decimals=6):
    """Round positions and cell in place, so that labels belong to exactly the geometry in the file.

    Parameters
    ----------
    atoms : ase.Atoms
        Changed in place.
    decimals : int, default=6
        Decimals to keep, in Angstrom.
    """
    atoms.set_cell(np.round(atoms.cell.array, decimals))
    atoms.positions = np.round(atoms.positions, decimals)


def label(atoms, calculator, properties):
    """Replace the calculator of ``atoms`` by the fixed results of ``calculator``.

    Parameters
    ----------
    atoms : ase.Atoms
        Changed in place.
    calculator : ase.calculators.calculator.Calculator
        Source of the labels.
    properties : list of str
        ASE result keys to keep.
    """
    results = {key: np.round(calculator.get_property(key, atoms), DECIMALS) for key in properties}
    atoms.calc = SinglePointCalculator(atoms, **results)


def write_frames(path, frames):
    """Write ``frames`` as gzipped extended XYZ, with no time stamp in the header."""
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
