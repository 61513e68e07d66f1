"""Long-range features: sums with known answers, derivatives, symmetries."""

import copy
import math
import pickle
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.build import molecule as build_molecule
from scipy.spatial.transform import Rotation
from scipy.special import erf, erfc
from torchpme import CoulombPotential, P3MCalculator

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.data import as_structures, build_graph
from sklearn_soapbpnn.nn import LongRange
from sklearn_soapbpnn.potentials import Geometry, LongRangeParameters, _p3m, check_long_range

CUTOFF = 3.0
SKEWED = np.array([[4.0, 0.0, 0.0], [1.5, 4.2, 0.0], [-0.8, 0.9, 4.5]])


def in_cell(atoms, cell, pbc=True):
    atoms = atoms.copy()
    atoms.set_cell(cell)
    atoms.pbc = pbc
    return atoms


def turned(atoms, seed=0):
    rotation = Rotation.random(random_state=seed).as_matrix()
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ rotation.T)
    atoms.positions = atoms.positions @ rotation.T
    return atoms


WATER = build_molecule("H2O")
ROCKSALT = bulk("NaCl", "rocksalt", a=5.0)
ROCKSALT.rattle(0.1, seed=1)
SLAB = in_cell(WATER, SKEWED, [True, True, False])
STRUCTURES = {
    "molecule": build_molecule("CH3CH2OH"),
    "skewed cell": in_cell(WATER, SKEWED),
    "crystal": ROCKSALT,
    "slab": SLAB,
    "slab that is not horizontal": turned(in_cell(WATER, SKEWED[[2, 0, 1]], [True, False, True])),
    "slab without a third vector": in_cell(WATER, np.diag([4.0, 4.4, 0.0]), [True, True, False]),
    "tiny cell": Atoms("C", cell=[[2.0, 0.1, 0.0], [0.3, 2.1, 0.2], [0.1, 0.0, 2.2]], pbc=True),
    "single atom": Atoms("O"),
    "single atom in a cell without neighbours": Atoms("O", cell=np.diag([7.0, 8, 9]), pbc=True),
    "atoms without neighbours": Atoms("HO", [[0, 0, 0], [0, 0, 9.0]]),
}
PERIODIC = [name for name, atoms in STRUCTURES.items() if atoms.pbc.any()]


@pytest.fixture(params=list(STRUCTURES))
def structure(request):
    return STRUCTURES[request.param].copy()


@pytest.fixture(params=PERIODIC)
def periodic(request):
    return STRUCTURES[request.param].copy()


@pytest.fixture(params=[True, False], ids=["ewald", "mesh"])
def use_ewald(request):
    return request.param


def build_geometry(frames, cutoff=CUTOFF, dtype=torch.float64):
    structures = as_structures(frames)
    graph = build_graph(structures, cutoff, structures.elements)
    return Geometry(
        positions=torch.from_numpy(np.concatenate(structures.positions)).to(dtype),
        cells=torch.from_numpy(np.stack(structures.cells)).to(dtype),
        pbc=[tuple(pbc.tolist()) for pbc in structures.pbc],
        structure_of_atom=torch.arange(len(structures)).repeat_interleave(graph.atom_counts),
        centers=graph.centers,
        neighbors=graph.neighbors,
        pair_vectors=graph.pair_vectors.to(dtype),
    )


def build(n_features=2, cutoff=CUTOFF, dtype=torch.float64, seed=0, **parameters):
    generator = torch.Generator().manual_seed(seed)
    return LongRange(LongRangeParameters(**parameters), cutoff, n_features, generator).to(dtype)


def build_fine(use_ewald, cutoff=CUTOFF, resolution=0.2, **parameters):
    return build(
        cutoff=cutoff, use_ewald=use_ewald, kspace_resolution=resolution, **parameters
    ).train(use_ewald)


def random_features(n_atoms, n_features=2, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n_atoms, n_features)))


def compute(module, atoms, charges=None, dtype=torch.float64):
    """Potential of charges, by default random ones."""
    charges = random_features(len(atoms)) if charges is None else charges
    geometry = build_geometry([atoms], module.coulomb.cutoff_radius, dtype)
    with torch.no_grad():
        return module.compute_potential(charges.to(dtype), geometry).numpy()


def exclude(r, cutoff):
    """The weight that neighbours keep."""
    return np.where(r < cutoff, (1 - np.cos(np.pi * r / cutoff)) / 2, 1.0)


# sums with known answers


@pytest.mark.parametrize(
    ("structure", "charges", "madelung"),
    [
        # decimal expansions of the OEIS, A085469, A181152 and A182566
        ("rocksalt", [1, -1], 1.747564594633182),
        ("cesiumchloride", [1, -1], 1.762674773070988),
        ("zincblende", [1, -1], 1.638055053388789),
    ],
)
def test_madelung_constants(structure, charges, madelung, use_ewald):
    """In primitive cells, skewed but for cesium chloride, turned any way.

    The long-range potential lacks the neighbours: they are added by hand.
    """
    a = {"rocksalt": 2.0, "cesiumchloride": 2 / 3**0.5, "zincblende": 4 / 3**0.5}[structure]
    cutoff, smearing = 7.0, 1.0  # in distances of nearest neighbours
    atoms = turned(bulk("NaCl", structure, a=a))
    charges = torch.tensor(charges, dtype=torch.float64)[:, None]
    module = build_fine(use_ewald, cutoff, smearing=smearing)
    potential = 2 * compute(module, atoms, charges)[:, 0]

    graph = build_geometry([atoms], cutoff)
    i, j = graph.centers.numpy(), graph.neighbors.numpy()
    r = graph.pair_vectors.norm(dim=1).numpy()
    missing = 1 / r - erf(r / smearing / 2**0.5) / r * exclude(r, cutoff)
    np.add.at(potential, i, charges.numpy()[j, 0] * missing)
    np.add.at(potential, j, charges.numpy()[i, 0] * missing)
    np.testing.assert_allclose(-potential * charges[:, 0].numpy(), madelung, rtol=1e-9)


@pytest.mark.parametrize("r", [0.8, 2.5, 3.0, 7.0])
def test_dimer(r):
    charges = torch.tensor([[0.3, -1.0], [2.0, 0.7]], dtype=torch.float64)
    weight = (1 - math.cos(math.pi * r / 3.0)) / 2 if r < 3.0 else 1.0
    expected = charges.numpy()[::-1] * weight / r / 2
    actual = compute(build(), Atoms("HO", [[0, 0, 0], [0, 0, r]]), charges)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_molecule_is_the_double_sum():
    atoms = STRUCTURES["molecule"]
    r = atoms.get_all_distances() + np.eye(len(atoms))
    v = exclude(r, CUTOFF) / r * (1 - np.eye(len(atoms)))
    expected = v @ random_features(len(atoms)).numpy() / 2
    np.testing.assert_allclose(compute(build(), atoms), expected, rtol=1e-12)


def sum_layer(positions, lateral, charges, smearing):
    """Gaussian charges in two periodic directions, along x and y, and one that is not.

    The Ewald sum in two dimensions: D. E. Parry, Surf. Sci. 49, 433 (1975); the k = 0 term is the
    potential of charged sheets.
    """
    alpha = 1 / smearing / 2**0.5
    area = abs(np.linalg.det(lateral))
    d = positions[:, None] - positions
    s, z = d[:, :, :2], d[:, :, 2]
    potential = (
        -2 * np.pi / area * (z * erf(alpha * z) + np.exp(-((alpha * z) ** 2)) / alpha / np.pi**0.5)
    )
    reciprocal = 2 * np.pi * np.linalg.inv(lateral).T
    for n in np.ndindex(25, 25):
        if n == (12, 12):
            continue
        wave = (np.array(n) - 12) @ reciprocal
        k = np.linalg.norm(wave)
        both = [np.exp(sign * k * z) * erfc(k / 2 / alpha + sign * alpha * z) for sign in (1, -1)]
        potential += np.pi / area / k * np.cos(s @ wave) * sum(both)
    return potential @ charges - 2 * alpha / np.pi**0.5 * charges


@pytest.mark.parametrize("net_charge", [0.0, 1.0])
def test_slab_is_the_sum_in_two_dimensions(net_charge, use_ewald):
    smearing = 1.4
    charges = random_features(3)
    charges += net_charge - charges.mean(0)
    expected = sum_layer(SLAB.positions, SKEWED[:2, :2], charges.numpy(), smearing)
    geometry = build_geometry([SLAB])
    r = geometry.pair_vectors.norm(dim=1).numpy()
    inside = (1 - exclude(r, CUTOFF)) * erf(r / smearing / 2**0.5) / r
    i, j = geometry.centers.numpy(), geometry.neighbors.numpy()
    np.add.at(expected, i, -charges.numpy()[j] * inside[:, None])
    np.add.at(expected, j, -charges.numpy()[i] * inside[:, None])

    module = build_fine(use_ewald, resolution=0.5)
    np.testing.assert_allclose(compute(module, SLAB, charges), expected / 2, atol=2e-5)
    swapped = in_cell(SLAB, SKEWED[[2, 0, 1]], [False, True, True])
    for same in (turned(SLAB), turned(swapped)):
        np.testing.assert_allclose(compute(module, same, charges), expected / 2, atol=2e-5)


@pytest.mark.parametrize("third", [[0, 0, 0], [0, 0, 9.0], [0.1, 0.2, 60.0], [3.0, -2.0, -5.0]])
def test_third_vector_of_a_slab_has_no_meaning(third, use_ewald):
    module = build(use_ewald=use_ewald).train(use_ewald)
    expected = compute(module, SLAB)
    actual = compute(module, in_cell(SLAB, [*SKEWED[:2], third], SLAB.pbc))
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
def test_mesh_converges_to_waves(periodic, nodes):
    exact = compute(build_fine(True), periodic)
    coarse, default, fine = (
        np.abs(
            compute(build_fine(False, resolution=h, interpolation_nodes=nodes), periodic) - exact
        ).max()
        for h in (2.66, 1.33, 0.33)
    )
    assert fine < 0.1 * coarse or fine < 1e-9
    if nodes == 5:
        assert default < 2e-5
        # what is left of the interaction of slabs changes with their distance
        assert fine < (1e-7 if periodic.pbc.all() else 1e-6)


def test_mesh_agrees_with_torchpme_where_the_cell_vectors_are_the_axes():
    atoms = Atoms(["C"] * 6, np.random.default_rng(0).uniform(0, 5, (6, 3)), cell=[5.0, 6.0, 7.0])
    atoms.pbc = True
    geometry = build_geometry([atoms])
    charges = random_features(6)
    theirs = P3MCalculator(CoulombPotential(1.4, CUTOFF), 1.33, 5)(
        charges,
        geometry.cells[0],
        geometry.positions,
        torch.stack([geometry.centers, geometry.neighbors], 1),
        geometry.pair_vectors.norm(dim=1),
    )
    np.testing.assert_allclose(compute(build(), atoms, charges), theirs.numpy(), rtol=1e-12)


def test_ewald_is_for_training_only():
    atoms = STRUCTURES["skewed cell"]
    ewald, mesh = build(use_ewald=True), build()
    np.testing.assert_array_equal(compute(ewald.eval(), atoms), compute(mesh.eval(), atoms))
    np.testing.assert_array_equal(compute(mesh.train(), atoms), compute(mesh.eval(), atoms))
    assert np.abs(compute(ewald.train(), atoms) - compute(mesh, atoms)).max() > 1e-8


def test_features_are_a_perceptron_of_the_potential(structure):
    module, geometry = build(n_features=3), build_geometry([structure])
    h = random_features(len(structure), 3)
    weights = {name: w.detach() for name, w in module.state_dict().items()}
    charges = h @ weights["charges.weight"].T + weights["charges.bias"]
    potential = module.compute_potential(charges, geometry)
    hidden = potential @ weights["out.0.weight"].T + weights["out.0.bias"]
    hidden = hidden * torch.sigmoid(hidden)
    expected = hidden @ weights["out.2.weight"].T + weights["out.2.bias"]
    torch.testing.assert_close(module(h, geometry).detach(), expected)


def test_atoms_alone_have_no_potential():
    for atoms in (Atoms("O"), Atoms("O", cell=[3.0, 3.0, 3.0])):
        np.testing.assert_array_equal(compute(build(), atoms), 0.0)
    alone = Atoms("O", cell=[7.0, 8.0, 9.0], pbc=True)
    assert np.isfinite(compute(build(), alone)).all()  # its images and the background


# derivatives


def energy(module, frames, strain=None):
    """Weigh features in no special way; return what to differentiate with respect to, too."""
    geometry = build_geometry(frames)
    inputs = [geometry.positions, geometry.cells, geometry.pair_vectors]
    if strain is not None:
        deformation = torch.eye(3, dtype=torch.float64) + strain
        inputs = [x @ deformation for x in inputs]
    inputs = [x.requires_grad_() if strain is None else x for x in inputs]
    geometry.positions, geometry.cells, geometry.pair_vectors = inputs
    features = module(random_features(len(geometry.positions)), geometry)
    weights = random_features(len(features), seed=1)
    return (features * weights).sum(), geometry


def test_forces_are_the_derivatives(structure, use_ewald):
    module = build(use_ewald=use_ewald).train(use_ewald)
    total, geometry = energy(module, [structure])
    slope, pair_slope = torch.autograd.grad(
        total, [geometry.positions, geometry.pair_vectors], materialize_grads=True
    )
    slope = slope.index_add(0, geometry.neighbors, pair_slope)
    slope = slope.index_add(0, geometry.centers, -pair_slope)
    for index in np.ndindex(slope.shape):
        ends = []
        for step in (1e-4, -1e-4):
            moved = structure.copy()
            moved.positions[index] += step
            ends.append(energy(module, [moved])[0].item())
        assert slope[index].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=1e-7)


def test_stress_is_the_derivative(periodic, use_ewald):
    module = build(use_ewald=use_ewald).train(use_ewald)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(energy(module, [periodic], strain)[0], strain)
    for i, j in np.ndindex(3, 3):
        ends = []
        for step in (1e-4, -1e-4):
            strained = periodic.copy()
            deformation = np.eye(3)
            deformation[i, j] += step
            strained.set_cell(strained.cell.array @ deformation)
            strained.positions = strained.positions @ deformation
            ends.append(energy(module, [strained])[0].item())
        assert slope[i, j].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=1e-7)


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("HO", [[0.1, 0.2, 0.3], [0.4, 0.3, 2.0]]),
        in_cell(Atoms("HO", [[0.1, 0.2, 0.3], [0.4, 0.3, 2.0]]), SKEWED),
        in_cell(Atoms("HO", [[0.1, 0.2, 0.3], [0.4, 0.3, 2.0]]), np.diag([4.0, 4.2, 4.4])),
        in_cell(Atoms("HO", [[0.1, 0.2, 0.3], [0.4, 0.3, 2.0]]), SKEWED, [True, False, True]),
    ],
    ids=["molecule", "skewed cell", "orthogonal cell", "slab"],
)
def test_first_and_second_derivatives(atoms, use_ewald):
    # a cutoff that few pairs are within; a coarse mesh, since all that counts is consistency
    module = build(1, cutoff=2.0, use_ewald=use_ewald, kspace_resolution=3.0).train(use_ewald)
    geometry = build_geometry([atoms], 2.0)

    def evaluate(features, positions, cells, pair_vectors):
        rest = geometry.structure_of_atom, geometry.centers, geometry.neighbors
        return module(features, Geometry(positions, cells, geometry.pbc, *rest, pair_vectors))

    inputs = [random_features(2, 1), geometry.positions, geometry.cells, geometry.pair_vectors]
    inputs = [x.clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(evaluate, inputs)
    assert torch.autograd.gradgradcheck(evaluate, inputs, fast_mode=True)


def test_force_and_stress_losses_reach_every_weight(use_ewald):
    """The second derivatives with respect to the cell are finite, also at k = 0."""
    module = build(use_ewald=use_ewald).train(use_ewald)
    total, geometry = energy(module, [atoms for atoms in STRUCTURES.values()])
    inputs = [geometry.positions, geometry.cells, geometry.pair_vectors]
    slopes = torch.autograd.grad(total, inputs, create_graph=True)
    sum(slope.square().sum() for slope in slopes).backward()
    for name, weight in module.named_parameters():
        if name == "out.2.bias":  # shifts the features of all atoms
            continue
        assert torch.isfinite(weight.grad).all()
        assert weight.grad.abs().max() > 0


# symmetries


def test_rotation(structure, use_ewald):
    module = build(use_ewald=use_ewald).train(use_ewald)
    expected = compute(module, structure)
    np.testing.assert_allclose(compute(module, turned(structure)), expected, atol=1e-12)
    mirrored = in_cell(structure, -structure.cell.array, structure.pbc)
    mirrored.positions *= -1
    np.testing.assert_allclose(compute(module, mirrored), expected, atol=1e-12)


def test_translation(structure):
    """The mesh sees it, the sum over waves does not."""
    moved = structure.copy()
    moved.positions += [0.3, -20.5, 11.0]
    module = build(use_ewald=True)
    np.testing.assert_allclose(
        compute(module.train(), moved), compute(module, structure), atol=1e-12
    )
    np.testing.assert_allclose(compute(module.eval(), moved), compute(module, structure), atol=3e-5)


@pytest.mark.parametrize("pbc", [False, [True, True, False], True], ids=str)
def test_structures_may_be_far_from_the_origin(shipped_alloys, pbc):
    """Where single precision would not tell neighbouring atoms apart; a slab along its plane."""
    X, y = shipped_alloys
    small = {"max_radial": 2, "max_angular": 1, "num_epochs": 1, "random_state": 0}
    model = SoapBPNNRegressor(**small, long_range=True).fit(X[:10], y[:10])
    atoms = X[10].copy()
    atoms.pbc = pbc
    far = atoms.copy()
    far.positions += [150_000, -90_000, 0] @ atoms.cell
    prediction = model.predict([atoms, far], targets=["energy", "forces", "stress"])
    energies, forces, stress = (prediction[name] for name in prediction.names)
    np.testing.assert_allclose(energies[1], energies[0], rtol=0, atol=5e-6)
    np.testing.assert_allclose(forces[1], forces[0], rtol=0, atol=2e-6)
    np.testing.assert_allclose(stress[1], stress[0], rtol=0, atol=1e-7)


def test_wrapping(periodic, use_ewald):
    module = build(use_ewald=use_ewald).train(use_ewald)
    moved = periodic.copy()
    moved.positions[0] += np.where(moved.pbc, [1, -2, 3], 0) @ moved.cell.array
    np.testing.assert_allclose(compute(module, moved), compute(module, periodic), atol=1e-12)


def test_permutation(structure):
    order = np.random.default_rng(0).permutation(len(structure))
    charges = random_features(len(structure))
    expected = compute(build(), structure, charges)[order]
    actual = compute(build(), structure[order], charges[torch.from_numpy(order)])
    np.testing.assert_allclose(actual, expected, atol=1e-14)


@pytest.mark.parametrize("name", ["skewed cell", "crystal", "slab", "tiny cell"])
def test_supercell(name, use_ewald):
    atoms = STRUCTURES[name]
    n_cells = (2, 1, 3) if atoms.pbc.all() else (2, 3, 1)
    repeated = atoms.repeat(n_cells)
    charges = random_features(len(atoms))
    module = build_fine(use_ewald, resolution=0.5)
    expected = np.tile(compute(module, atoms, charges), (6, 1))
    actual = compute(module, repeated, charges.repeat(6, 1))
    np.testing.assert_allclose(actual, expected, atol=1e-7 if atoms.pbc.all() else 2e-5)


def test_batch_is_a_loop_of_singles(use_ewald):
    """Also with the atoms of all structures shuffled, as batches sorted by element have them."""
    module = build(use_ewald=use_ewald).train(use_ewald)
    frames = list(STRUCTURES.values())
    charges = random_features(sum(len(atoms) for atoms in frames))
    singles = zip(frames, charges.split([len(atoms) for atoms in frames]))
    expected = np.concatenate([compute(module, atoms, q) for atoms, q in singles])

    batch = build_geometry(frames)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(charges)))
    place = torch.argsort(order)
    pairs = torch.from_numpy(np.random.default_rng(1).permutation(len(batch.centers)))
    batch.positions, batch.structure_of_atom = (
        batch.positions[order],
        batch.structure_of_atom[order],
    )
    batch.centers, batch.neighbors = place[batch.centers[pairs]], place[batch.neighbors[pairs]]
    batch.pair_vectors = batch.pair_vectors[pairs]
    actual = module.compute_potential(charges[order], batch)[place]
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-14)


def test_what_is_far_is_seen():
    """An atom beyond the cutoff changes the features of a molecule."""
    near, far = (Atoms("OHH", [*WATER.positions[:2], [0, 0, z]], pbc=False) for z in (15.0, 40.0))
    assert np.abs(compute(build(), near) - compute(build(), far))[:2].min() > 1e-3


# precision, weights, errors


def test_precision(structure, use_ewald):
    default = torch.get_default_dtype()
    module = build(use_ewald=use_ewald).train(use_ewald)
    single = copy.deepcopy(module).float()
    expected, features = compute(module, structure), random_features(len(structure))
    actual = compute(single, structure, dtype=torch.float32)
    assert actual.dtype == np.float32
    assert expected.dtype == np.float64
    np.testing.assert_allclose(actual, expected, atol=2e-6)
    geometry = build_geometry([structure], dtype=torch.float32)
    assert single(features.float(), geometry).dtype == torch.float32
    assert torch.get_default_dtype() == default


def test_state_is_the_weights_of_the_linear_layers():
    module = build(3)
    names = ["charges", "out.0", "out.2"]
    assert list(module.state_dict()) == [
        f"{n}.{what}" for n in names for what in ("weight", "bias")
    ]
    before = compute(module, SLAB)
    restored = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    restored.load_state_dict(module.state_dict())
    np.testing.assert_array_equal(compute(restored, SLAB), before)


def test_initial_weights():
    """As large as torch's, drawn from the generator in float64 and from nothing else."""
    torch.manual_seed(1)
    weights = build(64).state_dict()
    state = torch.get_rng_state()
    for name, w in build(64).state_dict().items():
        torch.testing.assert_close(w, weights[name], rtol=0, atol=0)
        assert w.dtype == torch.float64
        assert 0.8 / 8 < w.abs().max() < 1 / 8
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(build(64, seed=1).state_dict()["charges.bias"], weights["charges.bias"])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"smearing": 0.0}, "smearing=0.0 must be a length greater than zero; its default is 1.4"),
        ({"smearing": math.inf}, "smearing=inf"),
        ({"kspace_resolution": -1}, "kspace_resolution=-1 .* its default is 1.33"),
        ({"kspace_resolution": math.nan}, "kspace_resolution=nan"),
        ({"interpolation_nodes": 1}, r"interpolation_nodes=1 must be one of \[2, 3, 4, 5\]"),
        ({"interpolation_nodes": 6}, "interpolation_nodes=6"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(ValueError, match=message):
        LongRangeParameters(**parameters)


def test_wires_are_refused():
    wire = in_cell(WATER, SKEWED, [False, False, True])
    structures = as_structures([WATER, SLAB, wire])
    check_long_range(structures[:2], LongRangeParameters(), 1e9)
    with pytest.raises(ValueError, match=r"X\[2\] is periodic along one direction .*pbc=False"):
        check_long_range(structures, LongRangeParameters(), 1e9)
    with pytest.raises(ValueError, match=r"X_val\[2\]"):
        check_long_range(structures[[2]], LongRangeParameters(), 1e9, "X_val")


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [([1e3] * 3, True), ([1e6] * 3, True), ([1e5, 20.0, 20.0], True), ([1e4, 1e4, 0], [1, 1, 0])],
    ids=str,
)
def test_cells_whose_mesh_fits_no_memory(cell, pbc):
    frames = [in_cell(WATER, SKEWED), WATER]
    model = SoapBPNNRegressor(
        max_radial=1, max_angular=1, num_epochs=1, long_range=True, random_state=0
    ).fit(frames, [0.0, 1.0])
    wide = in_cell(WATER, cell, pbc)
    message = r"\[0\] needs a mesh of .* points .* its cell is .*pbc=False.*kspace_resolution=1.33"
    with pytest.raises(ValueError, match="X" + message):
        model.predict([wide])
    with pytest.raises(ValueError, match="X" + message):
        model.fit([wide, *frames], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="X_val" + message):
        model.fit(frames, [0.0, 1.0], X_val=[wide], y_val=[1.0])
    wide.calc = model.calculator()
    with pytest.raises(ValueError, match="X" + message):
        wide.get_forces()


@pytest.mark.parametrize("pbc", [[1, 1, 1], [1, 1, 0], [1, 0, 1]])
def test_mesh_is_the_one_that_is_checked(pbc, monkeypatch):
    """What is counted beforehand is what torch-pme's mesh has."""
    made = []
    get_sizes = _p3m.get_ns_mesh

    def count(*arguments):
        made.append(get_sizes(*arguments))
        return made[-1]

    monkeypatch.setattr(_p3m, "get_ns_mesh", count)
    frames = as_structures([in_cell(WATER, np.array(SKEWED) * 3, pbc)])
    model = SoapBPNNRegressor(max_radial=1, max_angular=1, num_epochs=1, long_range=True)
    model.fit(frames, [0.0])
    n_points = float(made[-1].prod())
    check_long_range(frames, LongRangeParameters(), n_points)
    with pytest.raises(ValueError, match="needs a mesh"):
        check_long_range(frames, LongRangeParameters(), n_points - 1)


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchpme", None)
    with pytest.raises(ImportError, match=r"pip install sklearn_soapbpnn\[long-range\]"):
        build()
