"""Sample the enol of malonaldehyde by molecular dynamics with GFN2-xTB.

Run as ``python -m sklearn_soapbpnn.datasets.scripts.make_malonaldehyde``. Needs tblite
(``pip install "sklearn-soapbpnn[datasets]"``) and takes a few minutes on one core.
"""

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.optimize import BFGS
from tblite.ase import TBLite

from ._write import DATA_FOLDER, label, round_geometry, write_frames

N_FRAMES = {300: 300, 600: 200}  # temperature in K: saved frames
TIMESTEP = 0.5 * units.fs
FRICTION = 0.01 / units.fs
STEPS_EQUILIBRATION = 4000  # 2 ps
STEPS_BETWEEN_FRAMES = 100  # 50 fs
SCF_ACCURACY = 0.01  # tblite's multiplier of its SCF thresholds; the default is 1


def start_geometry():
    """Build the planar enol ring O-H...O by hand, in Angstrom."""
    return Atoms(
        "OC3OH4",
        positions=[
            (-1.22, -0.87, 0.00),  # hydroxyl
            (-1.18, 0.45, 0.00),
            (0.00, 1.10, 0.00),
            (1.22, 0.42, 0.00),
            (1.28, -0.80, 0.00),  # carbonyl
            (-0.28, -1.20, 0.00),  # the shared proton
            (-2.12, 1.00, 0.00),
            (0.00, 2.18, 0.00),
            (2.17, 0.98, 0.00),
        ],
    )


def gfn2_xtb():
    """Return a tightly converged GFN2-xTB calculator that prints nothing."""
    return TBLite(method="GFN2-xTB", accuracy=SCF_ACCURACY, verbosity=0)


def check_intact(atoms):
    """Raise if a bond of the heavy chain or of a hydrogen is broken.

    The chain is O-C-C-C-O in file order; the proton may sit on either oxygen.
    """
    distances = atoms.get_all_distances()
    chain = distances[np.arange(4), np.arange(1, 5)]
    hydrogen = distances[5:, :5].min(axis=1)
    if chain.max() > 1.9 or hydrogen.max() > 1.5:
        raise RuntimeError(
            f"The molecule dissociated: longest chain bond {chain.max():.2f} Angstrom, "
            f"longest hydrogen bond length {hydrogen.max():.2f} Angstrom."
        )


def sample(atoms, temperature, n_frames, rng):
    """Run Langevin dynamics from ``atoms`` and return labelled frames.

    Parameters
    ----------
    atoms : ase.Atoms
        Relaxed start geometry, left unchanged.
    temperature : float
        Temperature of the thermostat, in K.
    n_frames : int
        Number of frames to return.
    rng : numpy.random.Generator
        Source of the velocities and of the thermostat's noise.

    Returns
    -------
    frames : list of ase.Atoms
        Centred on the centre of mass, with energy, forces and dipole.
    """
    walker = atoms.copy()
    walker.calc = gfn2_xtb()
    thermal_momenta = np.sqrt(walker.get_masses() * units.kB * temperature)[:, None]
    walker.set_momenta(thermal_momenta * rng.standard_normal((len(walker), 3)))
    dynamics = Langevin(
        walker, TIMESTEP, temperature_K=temperature, friction=FRICTION, fixcm=False, rng=rng
    )
    dynamics.run(STEPS_EQUILIBRATION)

    frames = []
    for _ in range(n_frames):
        dynamics.run(STEPS_BETWEEN_FRAMES)
        frame = Atoms(walker.symbols, positions=walker.positions - walker.get_center_of_mass())
        frame.info["temperature"] = temperature
        check_intact(frame)
        round_geometry(frame)
        label(frame, gfn2_xtb(), ["energy", "forces", "dipole"])
        frames.append(frame)
    return frames


def main():
    """Write ``data/malonaldehyde_xtb.extxyz.gz``: first the frames at 300 K, then at 600 K."""
    atoms = start_geometry()
    atoms.calc = gfn2_xtb()
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=500)

    frames = []
    for temperature, n_frames in N_FRAMES.items():
        frames += sample(atoms, temperature, n_frames, np.random.default_rng(temperature))
    write_frames(DATA_FOLDER / "malonaldehyde_xtb.extxyz.gz", frames)


if __name__ == "__main__":
    main()
