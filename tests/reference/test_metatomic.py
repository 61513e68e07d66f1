"""Exported models give the same numbers in the engines of metatomic."""

import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk
from conftest import STRUCTURES

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets, load_model
from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator

pytest.importorskip("metatomic_ase", reason="the extra `bench` installs metatomic")
pytestmark = [
    pytest.mark.metatrain,
    pytest.mark.filterwarnings("ignore"),  # metatomic's own
]
