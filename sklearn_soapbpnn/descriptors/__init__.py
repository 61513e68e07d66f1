"""SOAP: pair basis, density expansion, power spectrum, and the feature store."""

from ._channels import count_channels, count_features, take_degree
from ._expansion import compute_expansions, expand_density
from ._features import SoapFeatures, name_features
from ._load_kernels import load_kernels
from ._memory import estimate_memory, estimate_weights, exceeds_memory, find_memory
from ._pair_basis import (
    SOAP_PARAMETERS,
    SOAP_TYPES,
    PairBasis,
    SoapParameters,
    count_radial_channels,
    read_soap_parameters,
)
from ._pair_sums import FactoredPairs, FusedPairs, StoredPairs, sum_pairs
from ._power_spectrum import PowerSpectrum
from ._spectrum_pairs import contract_spectra, spread_spectra
from ._store import DiskStore, MemoryStore, hash_structures, open_store

__all__ = [
    "SOAP_PARAMETERS",
    "SOAP_TYPES",
    "DiskStore",
    "FactoredPairs",
    "FusedPairs",
    "MemoryStore",
    "PairBasis",
    "PowerSpectrum",
    "SoapFeatures",
    "SoapParameters",
    "StoredPairs",
    "compute_expansions",
    "contract_spectra",
    "count_channels",
    "count_features",
    "count_radial_channels",
    "estimate_memory",
    "estimate_weights",
    "exceeds_memory",
    "expand_density",
    "find_memory",
    "hash_structures",
    "load_kernels",
    "name_features",
    "open_store",
    "read_soap_parameters",
    "spread_spectra",
    "sum_pairs",
    "take_degree",
]
