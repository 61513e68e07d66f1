"""SoapBPNNRegressor: potentials and tensors as a scikit-learn regressor."""

import os
from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ._checks import (
    LAST_LAYER,
    SOAP_PARAMETERS,
    check_degrees,
    check_names,
    check_sums,
    describe_model,
    warn_of_constant,
)
from ._conversions import Conversions
from ._featurizer import SoapFeaturizer
from ._fit import check_data, fit_model, make_net
from ._resume import title_fit
from ._steps import featurize
from ._version import VersionedPickle
from .data import (
    KNOWN_KINDS,
    LEARNT_DERIVATIVES,
    TargetKind,
    Targets,
    as_position,
    as_structures,
    as_targets,
    usual_settings,
)
from .nn import check_volumes, evaluate, evaluate_features
from .training import TargetLoss, open_processes


class SoapBPNNRegressor(Conversions, VersionedPickle, RegressorMixin, BaseEstimator):
    r"""Behler-Parrinello neural network on SOAP power spectra.

    .. math::

        E = \sum_Z n_Z e_Z + \sum_{i<j} V^\mathrm{ZBL}_{ij}
            + s \sum_i \mathrm{MLP}_{Z_i}(\mathrm{LayerNorm}_{Z_i}(p_i))

    with the composition baseline :math:`e_Z`, optionally the ZBL repulsion, the scale s and the
    SOAP power spectrum :math:`p_i` [1]_ [2]_. Forces and stress are exact derivatives. Any number
    of other targets is learnt from the same hidden layers: scalars, vectors, 3x3 and spherical
    tensors, of structures or of atoms, each equivariant by construction. The value of a structure
    is the sum over its atoms, that of an intensive target their mean. On its own the regressor fits
    baseline and scale and computes the descriptors; in a Pipeline behind
    :class:`CompositionBaseline`, :class:`TargetScaler` and :class:`SoapFeaturizer` it uses what
    they attached, with the same result to the bit.

    Parameters
    ----------
    cutoff_radius, cutoff_width, max_radial, max_angular
        See :class:`SoapFeaturizer`. Used when X arrives without features.
    num_hidden_layers : int, default=2
        Hidden layers before the heads, shared by all targets.
    num_neurons_per_layer : int, default=32
        Width of the hidden layers.
    layernorm : bool, default=True
        Normalise the features of each atom before the network. Without it training converges more
        slowly, but may extrapolate better.
    add_lambda_basis : bool, default=True
        Build tensors of order 2 and higher from the density expansion of their own order as well,
        not only from products of three vectors. More flexible, a little slower.
    heads : dict, default=None
        ``{target: "mlp"}`` (one more hidden layer, as wide as the others; also for targets that are
        not named) or ``{target: "linear"}``.
    zbl : bool, default=False
        Learn what the Ziegler-Biersack-Littmark repulsion of close nuclei leaves, see
        :class:`ZBLBaseline`; in eV and Angstrom only.
    species_encoding : {"orthogonal", "alchemical"}, default="orthogonal"
        ``"orthogonal"`` keeps elements apart: one network for each, descriptors grow with their
        number squared. ``"alchemical"`` learns to embed the elements in a few pseudo-species, with
        one network for all: for data sets of many elements.
    n_pseudo_species : int, default=4
        Number of pseudo-species.
    long_range : bool, default=False
        Add features that see beyond the cutoff: charges that the hidden layers give, and the
        potential that they make [3]_. Needs torch-pme: ``pip install
        sklearn_soapbpnn[long-range]``.
    use_ewald : bool, default=False
        Train with Ewald sums rather than on a mesh (P3M); predictions use the mesh.
    smearing : float, default=1.4
        Width of the Gaussians that split the long-range sums, in the unit of the positions.
    kspace_resolution : float, default=1.33
        Length that the long-range sums resolve; smaller is more accurate and slower.
    interpolation_nodes : int, default=5
        Mesh points that a charge is spread over along each direction, 2 to 5.
    distributed : bool, default=False
        Train in several processes, which torchrun or SLURM start, or torch.distributed has joined
        already. Each calls ``fit`` with all the data and works on its share of every batch; the
        result is that of one process, up to rounding.
    distributed_port : int, default=39591
        Port where the processes meet if SLURM started them; torchrun chooses its own.
    batch_size : int, default=8
        Structures in a step of the optimiser.
    num_epochs : int, default=100
        Passes over the training data.
    warmup_fraction : float, default=0.01
        Share of the steps in which the learning rate rises; it then follows a cosine to zero.
    optimizer : {"muon", "adam"}, default="muon"
        ``"muon"`` orthogonalises the steps of all matrices of weights [4]_: errors of a half for
        the same epochs, see docs/training.md. ``"adam"`` trains as metatrain does.
    learning_rate : float, default=1e-3
        Highest learning rate. In a step, Adam changes each weight by about as much, and Muon what
        the first layer gives by at most 20 times and what others give by about 6 times as much, in
        units of what they get. So the default is right for both, whatever the sizes of the layers.
    log_interval : int, default=5
        Epochs between the lines that ``verbose`` prints.
    checkpoint_interval : int, default=25
        Epochs between two checkpoints.
    checkpoint_dir : str or path, default=None
        Folder of the checkpoints, one file for each set of data and parameters; see ``resume`` of
        :meth:`fit`. None writes none.
    scale_targets : bool, default=True
        Whether to divide the targets by their scale, see :class:`TargetScaler`.
    fixed_scaling_weights : dict, default=None
        Scales that are not to be fitted, e.g. ``{"energy": 0.1}``; see :class:`TargetScaler`.
    remove_composition_contribution : bool, default=True
        Whether to subtract the composition baseline, see :class:`CompositionBaseline`.
    fixed_composition_weights : dict, default=None
        Energies of elements that are not to be fitted, by symbol or atomic number, or
        ``{target: {element: value}}``; see :class:`CompositionBaseline`.
    per_structure_targets : sequence of str, default=()
        Targets whose loss and scale are of the structure, not per atom. Those of intensive targets
        always are.
    num_workers : int, default=None
        Processes that make batches ahead of the training loop where the data exceed
        ``memory_limit``; None takes all cores but one, 0 none.
    log_mae : bool, default=False
        Show mean absolute errors as well.
    log_separate_blocks : bool, default=False
        Record and show the errors of each block and property of a target as well.
    best_model_metric : {"rmse_prod", "mae_prod", "loss"}, default="rmse_prod"
        What picks the epoch whose weights are kept: the product of the validation errors of all
        targets, or the validation loss.
    loss : str or dict, default="mse"
        ``"mse"``, ``"mae"`` or ``"huber"``, or for each target one of these or ``{"type": ...,
        "weight": ..., "reduction": "mean" or "sum", "delta": ...}``, that of the energy also with
        ``"forces"`` and ``"stress"``, which take the same.
    memory_limit : float, default=None
        Bytes that weights, descriptors and the pair basis may take in training; None means half of
        the memory of the machine, or of what is free on the GPU. Larger data are described batch by
        batch, in every epoch: slower, but only geometry and labels stay in memory. Weights of many
        elements that exceed both are refused.
    device : str, default="auto"
        ``"cpu"``, ``"cuda"``, ... ``"auto"`` takes the GPU if there is one.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the descriptors and the network.
    random_state : int, RandomState instance or None, default=None
        Validation split, initial weights and order of the batches. An int gives the same bits in
        every fit on the CPU of one machine with the same number of threads.
    validation_fraction : float, default=0.1
        Share of the structures that is held out to pick the best epoch, if ``X_val`` is not given
        (baseline and scale see them all the same). With 0, or a single structure, the last epoch is
        kept.
    early_stopping : bool, default=False
        End the fit when validation has not improved by ``best_model_metric`` for
        ``n_iter_no_change`` epochs.
    n_iter_no_change : int, default=20
        Epochs to wait for a better one.
    warm_start : bool, default=False
        Go on from the weights of the last fit, with its elements, baseline and scale; the
        optimiser, its schedule and the best epoch start anew.
    verbose : int, default=0
        Print which fit it is and a line of errors every ``log_interval`` epochs, and on a terminal
        a progress bar with the time that is left.
    callbacks : list of skorch callbacks, default=None
        Further callbacks of the training loop, e.g. ``EarlyStopping(monitor="valid_metric")``.
        Those that cannot work here are refused: they score datasets, set the learning rate, or
        load the state of another fit.
    net_params : dict, default=None
        Arguments of the optimizer, as in a :class:`skorch.NeuralNet`, e.g.
        ``{"optimizer__weight_decay": 1e-2}``, or another optimizer, which takes the place of
        ``optimizer``: ``{"optimizer": torch.optim.AdamW}``, or one that evaluates the loss itself,
        such as L-BFGS.

    Attributes
    ----------
    elements_ : array of shape (n_elements,)
        Atomic numbers seen in fit, ascending.
    baseline_ : CompositionBaseline or None
        The fitted baseline; None if X carried an offset, or none is subtracted.
    zbl_ : ZBLBaseline or None
        The ZBL step; None without it.
    scaler_ : TargetScaler or None
        The fitted scaler; None if X carried a scale, or none is applied.
    featurizer_ : SoapFeaturizer or None
        The descriptor; None if X carried features.
    targets_ : tuple of str
        Names of the columns that were learnt from.
    kinds_ : dict of str to TargetKind
        Targets that have an output of their own, which is all but forces, stress and virial.
    n_features_in_ : int
        Size of the power spectrum of an atom.
    net_ : SoapBPNNNet
        The skorch net.
    module_ : SoapBPNN
        The torch module.
    history_ : skorch.history.History
        For every epoch ``train_loss``, ``valid_loss``, ``valid_metric`` (what picks the best),
        ``valid_energy_rmse`` and ``_mae`` (per atom), the same of ``forces``, ``stress`` (also
        where the virial is learnt) and every other target, and ``dur``, its seconds.

    See Also
    --------
    sklearn_soapbpnn.interfaces.ase.SoapBPNNCalculator : ASE calculator of a fitted model.

    Notes
    -----
    With one set of weights for each centre element the descriptor has no weights, so it is
    computed once. Forces are a linear map of the gradient of the small network behind it, and
    training on them needs that map and its transpose, never a second derivative of SOAP.

    References
    ----------
    .. [1] Behler, Parrinello, "Generalized neural-network representation of high-dimensional
       potential-energy surfaces", Phys. Rev. Lett. 98, 146401 (2007),
       doi:10.1103/PhysRevLett.98.146401.
    .. [2] Bartok, Kondor, Csanyi, "On representing chemical environments", Phys. Rev. B 87, 184115
       (2013), doi:10.1103/PhysRevB.87.184115.
    .. [3] Loche et al., "Fast and flexible long-range models for atomistic machine learning",
       J. Chem. Phys. 162, 142501 (2025), doi:10.1063/5.0251713.
    .. [4] Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024),
       https://kellerjordan.github.io/posts/muon.

    Examples
    --------
    >>> from sklearn_soapbpnn import SoapBPNNRegressor
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> X, y = load_malonaldehyde(return_X_y=True)
    >>> model = SoapBPNNRegressor(max_angular=2, num_epochs=2, random_state=0).fit(X[:40], y[:40])
    >>> model.predict(X[40:42]).shape
    (2,)
    >>> model.predict(X[40:42], targets=["energy", "forces"])
    Targets(2 structures: energy, forces)
    """

    _parameter_constraints: dict = {
        **{
            name: SoapFeaturizer._parameter_constraints[name]
            for name in (*SOAP_PARAMETERS, "dtype")
        },
        "num_hidden_layers": [Interval(Integral, 0, None, closed="left")],
        "num_neurons_per_layer": [Interval(Integral, 1, None, closed="left")],
        "layernorm": ["boolean"],
        "add_lambda_basis": ["boolean"],
        "heads": [dict, None],
        "zbl": ["boolean"],
        "species_encoding": [StrOptions({"orthogonal", "alchemical"})],
        "n_pseudo_species": [Interval(Integral, 1, None, closed="left")],
        "long_range": ["boolean"],
        "use_ewald": ["boolean"],
        "smearing": [Interval(Real, 0, None, closed="neither")],
        "kspace_resolution": [Interval(Real, 0, None, closed="neither")],
        "interpolation_nodes": [Interval(Integral, 2, 5, closed="both")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "num_epochs": [Interval(Integral, 1, None, closed="left")],
        "warmup_fraction": [Interval(Real, 0, 1, closed="both")],
        "optimizer": [StrOptions({"muon", "adam"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "log_interval": [Interval(Integral, 1, None, closed="left")],
        "scale_targets": ["boolean"],
        "fixed_scaling_weights": [Mapping, None],
        "remove_composition_contribution": ["boolean"],
        "fixed_composition_weights": [Mapping, None],
        "per_structure_targets": ["array-like"],
        "log_mae": ["boolean"],
        "log_separate_blocks": ["boolean"],
        "warm_start": ["boolean"],
        "distributed": ["boolean"],
        "distributed_port": [Interval(Integral, 1, 65535, closed="both")],
        "checkpoint_interval": [Interval(Integral, 1, None, closed="left")],
        "checkpoint_dir": [str, os.PathLike, None],
        "early_stopping": ["boolean"],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "best_model_metric": [StrOptions({"rmse_prod", "mae_prod", "loss"})],
        "loss": [str, dict],
        "memory_limit": [Interval(Real, 0, None, closed="neither"), None],
        "num_workers": [Interval(Integral, 0, None, closed="left"), None],
        "device": [str, torch.device],
        "random_state": ["random_state"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "verbose": ["verbose"],
        "callbacks": [list, None],
        "net_params": [dict, None],
    }

    def __init__(
        self,
        *,
        cutoff_radius=5.0,
        cutoff_width=0.5,
        max_radial=7,
        max_angular=6,
        num_hidden_layers=2,
        num_neurons_per_layer=32,
        layernorm=True,
        add_lambda_basis=True,
        heads=None,
        zbl=False,
        species_encoding="orthogonal",
        n_pseudo_species=4,
        long_range=False,
        use_ewald=False,
        smearing=1.4,
        kspace_resolution=1.33,
        interpolation_nodes=5,
        distributed=False,
        distributed_port=39591,
        batch_size=8,
        num_epochs=100,
        warmup_fraction=0.01,
        optimizer="muon",
        learning_rate=1e-3,
        log_interval=5,
        checkpoint_interval=25,
        checkpoint_dir=None,
        scale_targets=True,
        fixed_scaling_weights=None,
        remove_composition_contribution=True,
        fixed_composition_weights=None,
        per_structure_targets=(),
        num_workers=None,
        log_mae=False,
        log_separate_blocks=False,
        best_model_metric="rmse_prod",
        loss="mse",
        memory_limit=None,
        device="auto",
        dtype="float32",
        random_state=None,
        validation_fraction=0.1,
        early_stopping=False,
        n_iter_no_change=20,
        warm_start=False,
        verbose=0,
        callbacks=None,
        net_params=None,
    ):
        self.cutoff_radius = cutoff_radius
        self.cutoff_width = cutoff_width
        self.max_radial = max_radial
        self.max_angular = max_angular
        self.num_hidden_layers = num_hidden_layers
        self.num_neurons_per_layer = num_neurons_per_layer
        self.layernorm = layernorm
        self.add_lambda_basis = add_lambda_basis
        self.heads = heads
        self.zbl = zbl
        self.species_encoding = species_encoding
        self.n_pseudo_species = n_pseudo_species
        self.long_range = long_range
        self.use_ewald = use_ewald
        self.smearing = smearing
        self.kspace_resolution = kspace_resolution
        self.interpolation_nodes = interpolation_nodes
        self.distributed = distributed
        self.distributed_port = distributed_port
        self.batch_size = batch_size
        self.num_epochs = num_epochs
        self.warmup_fraction = warmup_fraction
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.log_interval = log_interval
        self.checkpoint_interval = checkpoint_interval
        self.checkpoint_dir = checkpoint_dir
        self.scale_targets = scale_targets
        self.fixed_scaling_weights = fixed_scaling_weights
        self.remove_composition_contribution = remove_composition_contribution
        self.fixed_composition_weights = fixed_composition_weights
        self.per_structure_targets = per_structure_targets
        self.num_workers = num_workers
        self.log_mae = log_mae
        self.log_separate_blocks = log_separate_blocks
        self.best_model_metric = best_model_metric
        self.loss = loss
        self.memory_limit = memory_limit
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.verbose = verbose
        self.callbacks = callbacks
        self.net_params = net_params

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, X_val=None, y_val=None, sample_weight=None, groups=None, resume=False):
        """Fit the potential.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures; offset, scale and features that they carry are used.
        y : array of shape (n_structures,), or Targets
            Energies, or any targets; ``forces`` and ``stress`` or ``virial`` are derivatives of the
            energy, which may be unlabelled (NaN, or no column): it is then known up to a constant.
        X_val : sequence of ase.Atoms, or Structures, default=None
            Validation structures; None holds out ``validation_fraction`` of X.
        y_val : array of shape (n_val,), or Targets, default=None
            Their labels, of the same names as y.
        sample_weight : array of shape (n_structures,), default=None
            Weights of the structures in the loss, the baseline and the scale.
        groups : array of shape (n_structures,), default=None
            Group of each structure (its trajectory, its composition, ...); what is held out for
            validation are whole groups.
        resume : bool, default=False
            Go on from the newest checkpoint that a fit with the same data and parameters left in
            ``checkpoint_dir``, and end with the same bits as if it had never been interrupted;
            start afresh if there is none.

        Returns
        -------
        self : SoapBPNNRegressor

        Raises
        ------
        TypeError, ValueError
            If X, y or a parameter cannot be used; raised before the training starts.
        RuntimeError
            If another process of a distributed fit cannot be reached, or has failed.

        Warns
        -----
        ConvergenceWarning
            If the loss diverged, or Ctrl-C ended the fit; the best epoch so far is kept.
        """
        keep = self.warm_start and hasattr(self, "net_")
        data = {"X_val": X_val, "y_val": y_val, "sample_weight": sample_weight, "groups": groups}
        return self._fit(keep, resume, X=X, y=y, **data)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, X_val=None, y_val=None, sample_weight=None, groups=None):
        """Go on learning, on the same or other data, for another ``num_epochs``.

        Weights, elements, baseline and scale are kept; the optimiser, its schedule, the history
        and the best epoch start anew. Targets that are new get a head, a baseline and a scale;
        targets that y lacks can still be predicted, from hidden layers that go on changing.
        Without a fit before, this is ``fit``.

        Parameters
        ----------
        X, y, X_val, y_val, sample_weight, groups
            See :meth:`fit`.

        Returns
        -------
        self : SoapBPNNRegressor

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As :meth:`fit` does, and if X contains elements that the fit before did not see, or a
            target is of another kind.
        """
        keep = hasattr(self, "net_")
        data = {"X_val": X_val, "y_val": y_val, "sample_weight": sample_weight, "groups": groups}
        return self._fit(keep, X=X, y=y, **data)

    def predict(self, X, targets=None):
        """Predict targets, and what derives from them.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.
        targets : str or list of str, default=None
            Some of the targets that were learnt, and of: ``"energies"``, what each atom adds to the
            energy; ``"forces"``, minus its derivative with respect to the positions; ``"stress"``,
            tensile positive, and ``"virial"``, minus the stress times the volume;
            ``"features"``, what the hidden layers give; ``"<target>_last_layer_features"``, what
            the last layer of a target is linear in.

        Returns
        -------
        array of shape (n_structures,) or (n_structures, n_components), list of arrays, or Targets
            Without ``targets`` the energies; where none were learnt the first scalar of structures,
            else the first target of structures, else the first one of atoms. Tensors then have a
            flat second axis, as in ``np.asarray(y)``, which is what the scorers of scikit-learn
            compare with. With ``targets`` the named ones, each in its own shape. Values of atoms
            are lists of arrays of shape (n_atoms, ...), ``stress`` and ``virial`` are NaN where a
            cell has no volume; all in the units of fit.

        Raises
        ------
        ValueError
            If X contains elements that fit did not see, lacks or carries what X in fit did not, or
            a target is unknown.

        Warns
        -----
        UserWarning
            If energies are asked for that were learnt from forces or stresses alone: they are known
            up to a constant for each composition.
        """
        check_is_fitted(self, "net_")
        main = _find_main(self.kinds_)
        names = check_names([main] if targets is None else targets, self.kinds_)
        warn_of_constant(names, self.kinds_, self.targets_, stacklevel=2)
        X = as_structures(X)
        wanted = {**KNOWN_KINDS, **self.kinds_}
        per_volume = [name for name in names if name in wanted and wanted[name].per_volume]
        if "virial" in names or per_volume:
            check_volumes(X, sorted({*per_volume, *({"virial"} & set(names))}))
        structures = self._transform(X, names)
        results = self._evaluate(structures, names)
        if targets is None:
            values, kind = results[main], self.kinds_[main]
            is_tensor = not kind.per_atom and kind.shape != ()
            return values.reshape(len(values), kind.size) if is_tensor else values
        columns = {name: results[name] for name in names}
        kinds = {name: self._find_kind(name, columns[name]) for name in names}
        return Targets(kinds=kinds, **columns)

    def features(self, X, atoms=None):
        """Return what the hidden layers give for every atom.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.
        atoms : sequence of index arrays or masks, default=None
            Atoms of each structure that are wanted; None means all.

        Returns
        -------
        list of arrays of shape (n_atoms, num_neurons_per_layer)
            Invariants; without hidden layers these are the normalised SOAP features.
        """
        return self._select_features(X, "features", atoms)

    def last_layer_features(self, X, target="energy", atoms=None):
        """Return what the last layer of a target is linear in, for every atom.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.
        target : str, default="energy"
            One of the targets that were learnt.
        atoms : sequence of index arrays or masks, default=None
            Atoms of each structure that are wanted; None means all.

        Returns
        -------
        list of arrays of shape (n_atoms, n_features)
        """
        return self._select_features(X, target + LAST_LAYER, atoms)

    def score(self, X, y, sample_weight=None):
        r"""Return :math:`R^2` of the energies, or of what ``predict`` gives where none were learnt.

        The mean over the components of a value, over what is labelled. For other targets and
        errors see :func:`sklearn_soapbpnn.metrics.make_target_scorer`.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures.
        y : array of shape (n_structures,), or Targets
            Labels; NaN in Targets is left out.
        sample_weight : array of shape (n_structures,), default=None
            Weights of the structures.

        Returns
        -------
        float
        """
        X = as_structures(X)
        y = as_targets(y, X)
        check_is_fitted(self, "net_")
        main = _find_main(self.kinds_)
        if main not in y or not np.any(np.concatenate(y.labelled(main), axis=None)):
            raise ValueError(
                f"y needs labels of {main!r} to be scored, it has {list(y.names)}. For other "
                "targets see sklearn_soapbpnn.metrics.make_target_scorer."
            )
        columns = [y[main], self.predict(X)]
        weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight)
        if self.kinds_[main].per_atom:
            columns = [np.concatenate(column) for column in columns]
            weight = np.repeat(weight, X.n_atoms)
        known, predicted = (column.reshape(len(weight), -1) for column in columns)
        scores = []
        for label, value in zip(known.T, predicted.T):
            there = np.isfinite(label)
            scores.append(r2_score(label[there], value[there], sample_weight=weight[there]))
        return float(np.mean(scores))

    @property
    def module_(self):
        """The torch module."""
        return self.net_.module_

    @property
    def history_(self):
        """Losses and validation errors of every epoch."""
        return self.net_.history

    @property
    def elements_(self):
        """Atomic numbers seen in fit, ascending."""
        return self._fitted_steps.elements

    @property
    def baseline_(self):
        """The fitted composition baseline; None if there is none."""
        return self._fitted_steps.baseline

    @property
    def zbl_(self):
        """The ZBL step; None without it."""
        return self._fitted_steps.zbl

    @property
    def scaler_(self):
        """The fitted scaler; None if there is none."""
        return self._fitted_steps.scaler

    @property
    def featurizer_(self):
        """The descriptor; None if X carried features."""
        return self._fitted_steps.featurizer

    @property
    def _fitted_steps(self):
        check_is_fitted(self, "_steps")
        return self._steps

    def _fit(self, keep, resume=False, **data):
        """Fit all of it, or change nothing."""
        before = dict(vars(self))
        processes = open_processes(self.distributed, self.distributed_port, self.device)
        try:
            with processes as group, usual_settings(), torch.enable_grad():
                checked = check_data(self, keep, **data)
                if self.verbose and group.rank == 0:
                    print(title_fit(self, checked), flush=True)
                fit_model(self, checked, resume, group)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise
        return self

    def _transform(self, X, names=()):
        """Bring structures to the state that X had in fit."""
        device = self.module_.basis.parity.device
        check_sums(self, X, device)
        return featurize(self, self._steps.prepare(X), names, device)

    def _evaluate(self, structures, names):
        """Return everything that is needed for some names."""
        derivatives = bool(set(LEARNT_DERIVATIVES) & set(names))
        results = {}
        if any(name != "features" and not name.endswith(LAST_LAYER) for name in names):
            results = evaluate(self.module_, structures, derivatives)
        for name in names:
            if name == "features":
                results[name] = evaluate_features(self.module_, structures)
            elif name not in results:
                target = name.removesuffix(LAST_LAYER)
                results[name] = evaluate_features(self.module_, structures, target)
        return results

    def _find_kind(self, name, values):
        if name in self.kinds_:
            return self.kinds_[name]
        if name in KNOWN_KINDS:
            return KNOWN_KINDS[name]
        return TargetKind.scalar(values[0].shape[1], per_atom=True)

    def _select_features(self, X, name, atoms):
        X = as_structures(X)
        columns = self.predict(X, targets=[name])[name]
        if atoms is None:
            return columns
        if len(atoms) != len(X):
            raise ValueError(
                f"atoms must name the atoms of each of the {len(X)} structures, got {len(atoms)} "
                "entries."
            )
        chosen = [as_position(entry, len(values)) for entry, values in zip(atoms, columns)]
        return [values[places] for values, places in zip(columns, chosen)]

    def _restore(self, steps, kinds, targets):
        """Set what fit sets, with a network of random weights."""
        self._steps, self.kinds_, self.targets_ = steps, kinds, tuple(targets)
        check_degrees(kinds, steps.parameters.max_angular)
        losses = {name: TargetLoss() for name in targets}
        with usual_settings():
            self.net_ = make_net(self, losses, 0, 0).initialize()
        self.module_.eval()
        self.n_features_in_ = self.module_.first.n_features
        self._fixed = describe_model(self, kinds)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.non_deterministic = self.random_state is None
        return tags


def _find_main(kinds):
    """Return the name of the target that is predicted and scored unless others are asked for.

    It is the one that ``np.asarray`` of Targets with these kinds gives, if it gives one.
    """
    per_structure = [name for name, kind in kinds.items() if not kind.per_atom]
    scalars = [name for name in per_structure if kinds[name].shape == ()]
    return "energy" if "energy" in kinds else [*scalars, *per_structure, *kinds][0]
