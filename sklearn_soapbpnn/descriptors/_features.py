"""The features that SoapFeaturizer attaches to structures."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from ..data import iterate_chunks, usual_settings
from ._channels import count_channels, count_features
from ._pair_basis import SoapParameters, count_radial_channels
from ._power_spectrum import PowerSpectrum

# number of atoms whose power spectra are in memory at a time while structures are pooled
ATOMS_PER_CHUNK = 4096


class SoapFeatures:
    """Density expansions of the atoms of several structures; power spectra are computed on demand.

    Only the expansions are stored. They contain everything needed for the power spectra and the
    forces, and their size grows linearly with the number of elements instead of quadratically.

    Parameters
    ----------
    expansions : list of arrays of shape (n_atoms, n_elements_of_the_structure, n_channels)
        One array per structure, for its elements in ascending order, or the path of a file that
        contains it, which is read when needed.
    numbers : list of arrays of shape (n_atoms,)
        Atomic numbers of each structure.
    elements : array of shape (n_elements,)
        Atomic numbers of all elements of the power spectrum, in ascending order.
    parameters : SoapParameters
        Hyperparameters of the expansions.
    pooling : {"mean", "sum"}
        How the power spectra of the atoms of a structure are combined into one row.
    dtype : str or numpy.dtype
        Precision of the expansions.
    """

    def __init__(self, expansions, numbers, elements, parameters: SoapParameters, pooling, dtype):
        self.expansions = list(expansions)
        self.dtype = np.dtype(dtype)
        self.numbers = list(numbers)
        self.elements = np.asarray(elements)
        self.parameters = parameters
        self.pooling = pooling

    @property
    def n_features(self):
        """Number of entries of the power spectrum of one atom."""
        n_per_l = count_radial_channels(self.parameters)
        return sum(count_features(n_per_l, len(self.elements)))

    def __len__(self):
        return len(self.expansions)

    def __getitem__(self, indices):
        return SoapFeatures(
            [self.expansions[i] for i in indices],
            [self.numbers[i] for i in indices],
            self.elements,
            self.parameters,
            self.pooling,
            self.dtype,
        )

    def expansion(self) -> Tensor:
        """Return the expansions over all elements: (n_atoms, n_elements, n_channels)."""
        n_atoms = sum(len(numbers) for numbers in self.numbers)
        n_channels = sum(count_channels(count_radial_channels(self.parameters)))
        dense = np.zeros((n_atoms, len(self.elements), n_channels), dtype=self.dtype)
        start = 0
        for numbers, block in zip(self.numbers, self._load()):
            present = np.searchsorted(self.elements, np.unique(numbers))
            dense[start : start + len(numbers), present] = block
            start += len(numbers)
        return torch.from_numpy(dense)

    def own_expansion(self) -> Tensor:
        """Return the expansions over the elements of each structure, padded with zeros."""
        n_blocks = max(len(np.unique(numbers)) for numbers in self.numbers)
        padding = [(0, 0), (0, 0), (0, 0)]
        padded = []
        for block in self._load():
            padding[1] = (0, n_blocks - block.shape[1])
            padded.append(np.pad(block, padding))
        return torch.from_numpy(np.concatenate(padded))

    @usual_settings()
    def per_atom(self):
        """Return the power spectra of all atoms: array of shape (n_atoms, n_features)."""
        spectrum = self._spectrum()
        return spectrum(spectrum.by_degree(self.expansion())).numpy()

    def pooled(self):
        """Return the pooled power spectra: array of shape (n_structures, n_features)."""
        counts = np.array([len(numbers) for numbers in self.numbers])
        pooled = np.empty((len(self), self.n_features), dtype=self.dtype)
        for part in iterate_chunks(counts, ATOMS_PER_CHUNK) if len(self) else ():
            starts = np.cumsum(counts[part]) - counts[part]
            spectra = self[range(part.start, part.stop)].per_atom()
            pooled[part] = np.add.reduceat(spectra, starts)
        if self.pooling == "mean":
            pooled /= counts[:, None]
        return pooled

    def _load(self):
        """Yield the expansions one by one."""
        for block in self.expansions:
            yield block if isinstance(block, np.ndarray) else np.load(block)

    def _spectrum(self):
        return load_power_spectrum(self.parameters, len(self.elements), str(self.dtype))


@lru_cache(maxsize=32)
def load_power_spectrum(parameters, n_elements, dtype) -> PowerSpectrum:
    """Return the power spectrum module of these sizes; it is shared, as it has no weights."""
    spectrum = PowerSpectrum(count_radial_channels(parameters), n_elements)
    return spectrum.to(getattr(torch, dtype))


def name_features(parameters, elements) -> np.ndarray:
    """Return names of the power spectrum entries: degree and two channels, e.g. ``l2_H0_O3``."""
    symbols = [chemical_symbols[number] for number in elements]
    names = []
    for l, n in enumerate(count_radial_channels(parameters)):
        channels = [f"{symbol}{k}" for symbol in symbols for k in range(n)]
        for p, first in enumerate(channels):
            names += [f"l{l}_{first}_{second}" for second in channels[p:]]
    return np.array(names, dtype=object)
