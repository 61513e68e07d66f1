"""SoapBPNNRegressor: a scikit-learn regressor for potentials and tensors."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ._conversions import Conversions
from ._estimators import Documented
from ._version import VersionedPickle
from .data import (
    FilePath,
    Frames,
    Labels,
    Targets,
    as_position,
    as_structures,
    as_targets,
    list_labelled,
    usual_settings,
)
from .descriptors import SOAP_PARAMETERS
from .doctor import summarize_data
from .interfaces.files import storable
from .model import (
    FEATURES,
    LAST_LAYER,
    check_n_samples,
    check_names,
    check_volumes,
    find_main,
    find_output_kind,
    warn_of_constant,
)
from .preprocessing import SoapFeaturizer
from .training import (
    FittedRegressor,
    calibrate_model,
    check_fit,
    check_labels,
    fit_model,
    open_processes,
    read_parameters,
    show_atoms,
    title_fit,
)


@storable
class SoapBPNNRegressor(
    Conversions, FittedRegressor, Documented, VersionedPickle, RegressorMixin, BaseEstimator
):
    r"""Behler-Parrinello neural network on SOAP power spectra.

    .. math::

        E = \sum_Z n_Z e_Z + \sum_{i<j} V^\mathrm{ZBL}_{ij}
            + s \sum_i \mathrm{MLP}_{Z_i}(\mathrm{LayerNorm}_{Z_i}(p_i))

    with the composition baseline :math:`e_Z`, optionally the ZBL repulsion, the scale s and the
    SOAP power spectrum :math:`p_i` [1]_ [2]_. Forces and stress are exact derivatives of the
    energy. Any number of other targets is learnt from the same hidden layers: scalars, vectors, 3x3
    tensors and spherical tensors, per structure or per atom, each equivariant by construction. The
    value of a structure is the sum over its atoms or, for an intensive target, the mean.

    Used alone, the regressor fits the baseline and the scale and computes the descriptors itself.
    In a Pipeline after :class:`CompositionBaseline`, :class:`TargetScaler` and
    :class:`SoapFeaturizer` it uses the data that these steps attached to X. Both ways give bitwise
    the same result.

    Parameters
    ----------
    cutoff_radius, cutoff_width, max_radial, max_angular, radial_scale
        See :class:`SoapFeaturizer`. Used if X has no features attached.
    num_hidden_layers : int, default=2
        Number of hidden layers before the heads, shared by all targets.
    num_neurons_per_layer : int, default=32
        Width of the hidden layers.
    layernorm : bool, default=True
        Whether to normalise the features of each atom before the network. Without normalisation
        the network sees how dense the surroundings of an atom are; errors are often lower by a
        tenth, but not always, and ``optimizer="adam"`` converges more slowly.
    add_lambda_basis : bool, default=True
        Whether to build tensors of order 2 and higher also from the density expansion of the same
        order, rather than from products of three vectors alone. This is more flexible and a little
        slower.
    heads : dict, default=None
        Head of each target: ``{target: "mlp"}`` for one more hidden layer, as wide as the others,
        or ``{target: "linear"}``. Targets that are not named have an MLP head.
    zbl : bool, default=False
        Whether to subtract the Ziegler-Biersack-Littmark repulsion of close nuclei before training
        and to add it to the predictions, see :class:`ZBLBaseline`; in eV and Angstrom only.
    species_encoding : {"orthogonal", "alchemical"}, default="orthogonal"
        ``"orthogonal"`` treats the elements separately: each has its own network, and the size of
        the descriptor grows with the square of their number. ``"alchemical"`` learns an embedding
        of the elements in a few pseudo-species, with one network for all elements; it is meant for
        data sets with many elements.
    n_pseudo_species : int, default=4
        Number of pseudo-species; used with ``species_encoding="alchemical"`` only.
    n_networks : int, default=1
        Number of networks in a committee. They start from different weights and are trained
        together on the same batches, each on a loss of its own; predictions and validation errors
        are those of their mean. Not with ``long_range``.
    long_range : bool, default=False
        Whether to add long-range features: the hidden layers predict charges, and the electrostatic
        potential of these charges becomes a feature [3]_. Requires torch-pme: ``pip install
        sklearn_soapbpnn[long-range]``.
    use_ewald : bool, default=False
        Whether to train with Ewald sums rather than with a mesh method (P3M); predictions always
        use the mesh.
    smearing : float, default=1.4
        Width of the Gaussians that split the long-range sums, in the unit of the positions.
    kspace_resolution : float, default=1.33
        Shortest length that the long-range sums resolve, in the unit of the positions; a smaller
        value is more accurate and slower.
    interpolation_nodes : int, default=5
        Number of mesh points, 2 to 5, over which a charge is spread along each direction.
    distributed : bool, default=False
        Whether to train in several processes, which are started by torchrun or SLURM or are already
        connected through torch.distributed. Each process calls ``fit`` with all the data and works
        on its share of every batch. The result is that of a single process, up to rounding.
    distributed_port : int, default=39591
        Port through which the processes connect if SLURM started them; torchrun chooses another.
    batch_size : int, default=8
        Number of structures per step of the optimizer.
    num_epochs : int, default=100
        Number of passes over the training data.
    warmup_fraction : float, default=0.01
        Fraction of the steps during which the learning rate rises linearly; it then falls to zero
        along a cosine.
    optimizer : {"muon", "adam"}, default="muon"
        ``"muon"`` orthogonalises the updates of all weight matrices [4]_, which lowers the errors
        after the same number of epochs, often by a third to a half; see docs/training.md.
        ``"adam"`` trains as metatrain does.
    learning_rate : float, default=1e-3
        Highest learning rate. In one step, Adam changes each weight by about this much, and Muon
        the output of each layer by at most 20 times this, relative to its input. The default
        therefore suits both optimizers and layers of any size.
    log_interval : int, default=5
        Number of epochs between the lines that ``verbose`` prints.
    checkpoint_interval : int, default=25
        Number of epochs between two checkpoints.
    checkpoint_dir : str or path, default=None
        Folder for checkpoints, with one file for each combination of data and parameters; see
        ``resume`` of :meth:`fit`. None writes no checkpoints.
    scale_targets : bool, default=True
        Whether to divide the targets by their scale, see :class:`TargetScaler`.
    fixed_scaling_weights : dict, default=None
        Scales to use instead of fitted ones, e.g. ``{"energy": 0.1}``; see :class:`TargetScaler`.
    remove_composition_contribution : bool, default=True
        Whether to subtract the composition baseline, see :class:`CompositionBaseline`.
    fixed_composition_weights : dict, default=None
        Energies of elements to use instead of fitted ones, by symbol or atomic number, or
        ``{target: {element: value}}``; see :class:`CompositionBaseline`.
    per_structure_targets : sequence of str, default=()
        Targets whose loss and scale refer to the whole structure, rather than to the value divided
        by the number of atoms. For intensive targets this is always so.
    num_workers : int, default=None
        Number of processes that prepare batches ahead of the training loop if the data exceed
        ``memory_limit``. None means one less than the number of cores, 0 means no such processes.
    log_mae : bool, default=False
        Whether ``verbose`` also prints mean absolute errors.
    log_separate_blocks : bool, default=False
        Whether to record and print also the errors of each block and property of a target.
    best_model_metric : {"rmse_prod", "mae_prod", "loss"}, default="rmse_prod"
        Quantity that determines the best epoch, whose weights are kept: the product of the
        validation errors (RMSE or MAE) of all targets, or the validation loss.
    loss : str or dict, default="mse"
        ``"mse"``, ``"mae"`` or ``"huber"`` for all targets, or a dict
        ``{target: name or specification}``; targets that are not named use ``"mse"``. A
        specification is a dict with any of

        - ``"type"``: one of the three names, default ``"mse"``;
        - ``"weight"``: factor in the total loss, default 1;
        - ``"reduction"``: whether the losses of a batch are averaged (``"mean"``, the default) or
          added (``"sum"``);
        - ``"delta"``: for ``"huber"`` the error at which the loss becomes linear, in units of the
          scale of the target, default 1.

        The specification of the energy may also have ``"forces"`` and ``"stress"`` (also for a
        virial), each a name or a specification. What these omit is taken from the energy, except
        for the weight, which is 1. See the examples below.
    memory_limit : float, default=None
        Largest memory in bytes for weights, descriptors and the pair basis in training. None means
        half of the memory of the machine, or half of the free memory of the GPU. For larger data
        the descriptors are computed for each batch in every epoch, which is slower, but keeps only
        geometries and labels in memory. A fit whose weights alone exceed both this limit and the
        default is refused.
    device : str, default="auto"
        ``"cpu"``, ``"cuda"``, ... ``"auto"`` means the GPU if there is one, otherwise the CPU.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the descriptors and the network.
    random_state : int, RandomState instance or None, default=None
        Seed for the validation split, the initial weights and the order of the batches. With an
        int, fits on the CPU of one machine with the same number of threads are bitwise identical.
    validation_fraction : float, default=0.1
        Fraction of the structures that is held out to determine the best epoch, if ``X_val`` is not
        given. (Baseline and scale are fitted on all structures of X.) With 0, or with a single
        structure, the weights of the last epoch are kept.
    early_stopping : bool, default=False
        Whether to end the fit when ``best_model_metric`` has not improved for ``n_iter_no_change``
        epochs.
    n_iter_no_change : int, default=20
        Number of epochs without improvement after which ``early_stopping`` ends the fit.
    warm_start : bool, default=False
        Whether :meth:`fit` continues from the weights of the previous fit and keeps its elements,
        baseline and scale, as :meth:`partial_fit` does. The optimizer, its schedule and the best
        epoch start anew.
    verbose : int, default=0
        If not 0, print the parameters of the fit and a line of errors every ``log_interval``
        epochs, and on a terminal show a progress bar with the remaining time, also of predictions
        that take longer than a second.
    callbacks : list of skorch callbacks, default=None
        Additional callbacks for the training loop, e.g. ``EarlyStopping(monitor="valid_metric")``.
        Callbacks that score data sets, set the learning rate or load the state of another fit
        cannot work here and raise an error.
    net_params : dict, default=None
        Arguments of the optimizer, as for :class:`skorch.NeuralNet`, e.g.
        ``{"optimizer__weight_decay": 1e-2}``, or another optimizer, which then replaces
        ``optimizer``: ``{"optimizer": torch.optim.AdamW}``, or one that evaluates the loss itself,
        such as L-BFGS.

    Attributes
    ----------
    fitted_ : FittedModel
        The result of the fit. All attributes below, except ``net_`` and ``history_``, are read from
        it.
    elements_ : array of shape (n_elements,)
        Atomic numbers seen in fit, in ascending order.
    baseline_ : CompositionBaseline or None
        The fitted baseline; None if X had an offset attached or no baseline is subtracted.
    zbl_ : ZBLBaseline or None
        The ZBL step; None with ``zbl=False``.
    scaler_ : TargetScaler or None
        The fitted scaler; None if X had a scale attached or targets are not scaled.
    featurizer_ : SoapFeaturizer or None
        The descriptor; None if X had features attached.
    targets_ : tuple of str
        Names of the columns of y on which the model was trained.
    kinds_ : dict of str to TargetKind
        Kind of each target that has a separate output, i.e. of all targets except forces, stress
        and virial, which are derivatives of the energy.
    n_features_in_ : int
        Number of features of the power spectrum of one atom.
    net_ : SoapBPNNNet
        The skorch net, which trains the network.
    module_ : SoapBPNN
        The network, a torch module.
    history_ : skorch.history.History
        For every epoch ``train_loss``, ``valid_loss``, ``valid_metric`` (see
        ``best_model_metric``), ``valid_energy_rmse`` and ``valid_energy_mae`` (per atom), the same
        for ``forces``, ``stress`` (also if the virial is learnt) and every other target, and the
        duration ``dur`` in seconds.

    See Also
    --------
    sklearn_soapbpnn.interfaces.ase.SoapBPNNCalculator : ASE calculator of a fitted model.

    Notes
    -----
    With ``species_encoding="orthogonal"`` the descriptor has no trainable weights, so it is
    computed only once. Forces are a linear map of the gradient of the network with respect to the
    descriptor. Training on forces needs this map and its transpose, but never a second derivative
    of SOAP.

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
    >>> small = {"max_angular": 1, "num_epochs": 2, "random_state": 0}
    >>> model = SoapBPNNRegressor(**small).fit(X[:20], y[:20])
    >>> model.predict(X[20:22]).shape
    (2,)
    >>> model.predict(X[20:22], targets=["energy", "forces"])
    Targets(2 structures: energy, forces)

    Twice the Huber loss of the energies, linear for errors above 0.1 times their scale, plus half
    the mean absolute error of the forces:

    >>> loss = {
    ...     "energy": {
    ...         "type": "huber",
    ...         "delta": 0.1,
    ...         "weight": 2.0,
    ...         "forces": {"type": "mae", "weight": 0.5},
    ...     }
    ... }
    >>> model = SoapBPNNRegressor(**small, loss=loss).fit(X[:20], y[:20])
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
        "n_networks": [Interval(Integral, 1, None, closed="left")],
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
        cutoff_radius: float = 5.0,
        cutoff_width: float = 0.5,
        max_radial: int = 7,
        max_angular: int = 6,
        radial_scale: float = math.inf,
        num_hidden_layers: int = 2,
        num_neurons_per_layer: int = 32,
        layernorm: bool = True,
        add_lambda_basis: bool = True,
        heads: dict[str, str] | None = None,
        zbl: bool = False,
        species_encoding: str = "orthogonal",
        n_pseudo_species: int = 4,
        n_networks: int = 1,
        long_range: bool = False,
        use_ewald: bool = False,
        smearing: float = 1.4,
        kspace_resolution: float = 1.33,
        interpolation_nodes: int = 5,
        distributed: bool = False,
        distributed_port: int = 39591,
        batch_size: int = 8,
        num_epochs: int = 100,
        warmup_fraction: float = 0.01,
        optimizer: str = "muon",
        learning_rate: float = 1e-3,
        log_interval: int = 5,
        checkpoint_interval: int = 25,
        checkpoint_dir: FilePath | None = None,
        scale_targets: bool = True,
        fixed_scaling_weights: Mapping[str, Any] | None = None,
        remove_composition_contribution: bool = True,
        fixed_composition_weights: Mapping[Any, Any] | None = None,
        per_structure_targets: Sequence[str] = (),
        num_workers: int | None = None,
        log_mae: bool = False,
        log_separate_blocks: bool = False,
        best_model_metric: str = "rmse_prod",
        loss: str | dict[str, Any] = "mse",
        memory_limit: float | None = None,
        device: str | torch.device = "auto",
        dtype: str = "float32",
        random_state: int | np.random.RandomState | None = None,
        validation_fraction: float = 0.1,
        early_stopping: bool = False,
        n_iter_no_change: int = 20,
        warm_start: bool = False,
        verbose: int = 0,
        callbacks: list[Any] | None = None,
        net_params: dict[str, Any] | None = None,
    ) -> None:
        self.cutoff_radius = cutoff_radius
        self.cutoff_width = cutoff_width
        self.max_radial = max_radial
        self.max_angular = max_angular
        self.radial_scale = radial_scale
        self.num_hidden_layers = num_hidden_layers
        self.num_neurons_per_layer = num_neurons_per_layer
        self.layernorm = layernorm
        self.add_lambda_basis = add_lambda_basis
        self.heads = heads
        self.zbl = zbl
        self.species_encoding = species_encoding
        self.n_pseudo_species = n_pseudo_species
        self.n_networks = n_networks
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
    def fit(
        self,
        X: Frames,
        y: Labels,
        X_val: Frames | None = None,
        y_val: Labels | None = None,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        resume: bool = False,
    ) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures. If they have an offset, a scale or features attached, these are used.
        y : array of shape (n_structures,), or Targets
            Energies, or any targets. ``forces`` and ``stress`` or ``virial`` are learnt as
            derivatives of the energy. The energy itself may be unlabelled (NaN, or no column); it
            is then determined up to a constant.
        X_val : sequence of ase.Atoms, or Structures, default=None
            Validation structures; None holds out ``validation_fraction`` of X.
        y_val : array of shape (n_val,), or Targets, default=None
            Labels of the validation structures, with the same columns as y. Targets without any
            label here do not determine the best epoch.
        sample_weight : array of shape (n_structures,), default=None
            Weights of the structures in the loss, the baseline and the scale.
        groups : array of shape (n_structures,), default=None
            Group of each structure, e.g. its trajectory or its composition. Only whole groups are
            held out for validation.
        resume : bool, default=False
            Whether to continue from the last checkpoint in ``checkpoint_dir`` of a fit with the
            same data and parameters. The result is then bitwise the same as without the
            interruption. If there is no such checkpoint, the fit starts from scratch.

        Returns
        -------
        self : SoapBPNNRegressor

        Raises
        ------
        TypeError, ValueError
            If X, y or a parameter is invalid; raised before training starts, and a fitted model
            stays as it was. A checkpoint that cannot be read is a ValueError, too.
        ImportError
            If ``long_range=True`` and torch-pme is not installed.
        RuntimeError
            If another process of a distributed fit cannot be reached or has failed.

        Warns
        -----
        ConvergenceWarning
            If the loss becomes NaN or infinite, or if Ctrl-C ends the fit, in which cases the best
            epoch so far is kept; or if the errors of a target are no better than those of the
            composition baseline.
        UserWarning
            If no held-out structure has a label, if all structures with a label of a target are
            held out, or if a fit that continues from a previous one finds energies of another
            reference.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1)
        >>> model = model.fit(X[:20], y[:20], X_val=X[20:24], y_val=y[20:24])
        >>> len(model.history_)
        1
        """
        before = getattr(self, "fitted_", None) if self.warm_start else None
        data = {"X_val": X_val, "y_val": y_val, "sample_weight": sample_weight, "groups": groups}
        return self._fit(before, resume, X=X, y=y, **data)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Frames,
        y: Labels,
        X_val: Frames | None = None,
        y_val: Labels | None = None,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Continue training for another ``num_epochs``, on the same or on other data.

        Weights, elements, baseline and scale are kept; the optimizer, its schedule, the history and
        the best epoch start anew. New targets get a head, a baseline and a scale. Targets that y
        lacks can still be predicted, but their predictions change, since training changes the
        hidden layers. If the model is not fitted yet, this is the same as :meth:`fit`.

        Parameters
        ----------
        X, y, X_val, y_val, sample_weight, groups
            See :meth:`fit`.

        Returns
        -------
        self : SoapBPNNRegressor

        Raises
        ------
        TypeError, ValueError, ImportError, RuntimeError
            As in :meth:`fit`. Also a ValueError if X contains elements absent from the previous
            fit, if a target is of another kind than before, or if a parameter was changed that
            determines what the weights mean, such as ``cutoff_radius``.

        Warns
        -----
        ConvergenceWarning, UserWarning
            As in :meth:`fit`.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
        >>> model = model.set_params(learning_rate=1e-4).partial_fit(X[20:40], y[20:40])
        """
        before = getattr(self, "fitted_", None)
        data = {"X_val": X_val, "y_val": y_val, "sample_weight": sample_weight, "groups": groups}
        return self._fit(before, X=X, y=y, **data)

    def predict(
        self,
        X: Frames,
        targets: str | Sequence[str] | None = None,
        return_std: bool = False,
        n_samples: int | None = None,
    ) -> Any:
        """Predict targets and quantities derived from them.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.
        targets : str or list of str, default=None
            Names of targets that were learnt, or of

            - ``"energies"``: contribution of each atom to the energy;
            - ``"forces"``: minus the derivative of the energy with respect to the positions;
            - ``"stress"``: positive under tension; ``"virial"``: minus the stress times the volume;
            - ``"features"``: see :meth:`features`;
            - ``"<target>_last_layer_features"``: see :meth:`last_layer_features`.
        return_std : bool, default=False
            Whether to return the standard deviations of the predictions as well. They are as large
            as the errors for the validation structures of the fit, and grow away from the
            structures on which the model was trained, see :meth:`calibrate`.
        n_samples : int, default=None
            Number of members of an ensemble to predict with, instead of the model itself: the same
            network with last layers drawn from their distribution. The members are the same in each
            call, and the forces of a member are the derivatives of its energy. What is computed
            from predictions gets error bars as the spread over the members.

        Returns
        -------
        array of shape (n_structures,) or (n_structures, n_components), list of arrays, or Targets
            Without ``targets``, the energies. If the model has no energy, it is the first scalar
            per-structure target, otherwise the first per-structure target, otherwise the first
            per-atom target. The components of a tensor are then flattened into a second axis, as in
            ``np.asarray(y)``, with which the scorers of scikit-learn compare.

            With ``targets``, Targets with these columns, each in the shape of its kind.

            Per-atom values are lists of arrays of shape (n_atoms, ...). ``stress`` and ``virial``
            are NaN for structures whose cell has no volume. All values are in the units of y in
            fit.

            With ``return_std`` a tuple of two of these: the predictions, and their standard
            deviations. With ``n_samples`` a list with the prediction of each member, or for values
            per structure an array with one axis more in front.

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        TypeError
            If X is not a sequence of structures.
        ValueError
            If X contains elements absent from fit, if other data (offset, scale, features) are
            attached to X than in fit, if a name is unknown, or if a target per volume or a virial
            is requested and no structure has a cell of finite volume. With ``return_std`` or
            ``n_samples``, also if an output has no error bars.

        Warns
        -----
        UserWarning
            If energies are requested, but were learnt from forces or stresses alone: they are
            determined up to a constant for each composition.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
        >>> model.predict(X[20:22]).shape
        (2,)
        >>> predicted = model.predict(X[20:22], targets=["energies", "forces"])
        >>> predicted["forces"][0].shape
        (9, 3)
        >>> energies, std = model.predict(X[20:22], return_std=True)
        >>> std.shape
        (2,)
        >>> members = model.predict(X[20:22], n_samples=64)  # of the energy
        >>> members.shape
        (64, 2)
        """
        check_is_fitted(self, "fitted_")
        kinds = self.kinds_
        main = find_main(kinds)
        names = check_names([main] if targets is None else targets, kinds)
        warn_of_constant(names, kinds, self.targets_, stacklevel=2)
        X = as_structures(X)
        check_volumes(X, names, kinds)
        finish = partial(self._finish, main=main if targets is None else None, names=names)
        if n_samples is not None:
            n_samples = check_n_samples(n_samples, return_std)
        with show_atoms(X.n_atoms.sum(), self.verbose) as report:
            options = {"memory_limit": self.memory_limit, "report": report}
            if n_samples is not None:
                found = self.fitted_.predict_members(X, names, n_samples, **options)
                members = [finish(results) for results in found]
                return np.stack(members) if isinstance(members[0], np.ndarray) else members
            if return_std:
                found = self.fitted_.predict_stds(X, names, **options)
                return tuple(finish(results) for results in found)
            return finish(self.fitted_.predict(X, names, **options))

    def calibrate(
        self, X: Frames, y: Labels, X_train: Frames | None = None, y_train: Labels | None = None
    ) -> Self:
        r"""Make the error bars as large as the errors for structures that were not trained on.

        ``fit`` does this with its validation structures. Others are better if they are more, or
        more like those of the application. Predictions stay the same.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures that the model was not trained on.
        y : array of shape (n_structures,), or Targets
            Their labels.
        X_train : sequence of ase.Atoms, or Structures, default=None
            Structures that the model was trained on. They are needed only if the model has no error
            bars yet, because it was read from a file of metatrain.
        y_train : array of shape (n_train,), or Targets, default=None
            Their labels.

        Returns
        -------
        self : SoapBPNNRegressor

        Raises
        ------
        NotFittedError, TypeError, ValueError
            As in :meth:`predict`. Also a ValueError if y has columns that were not learnt, or if
            ``X_train`` is needed.

        Notes
        -----
        The variance of a prediction :math:`y = g \cdot w` with last-layer weights w is

        .. math:: \sigma^2 = \alpha^2 \; g^T H^{-1} g

        with the Hessian H of the training loss with respect to w [1]_. Here
        :math:`\alpha` is determined, the root mean square of the errors in units of
        :math:`\sqrt{g^T H^{-1} g}`, for the energy, the forces, the stress and every other target.
        Forces and stress, as derivatives of the energy, have the same w as the energy.

        References
        ----------
        .. [1] Bigi, Chong, Ceriotti, Grasselli, "A prediction rigidity formalism for low-cost
           uncertainties in trained neural networks", Mach. Learn.: Sci. Technol. 5, 045018 (2024),
           doi:10.1088/2632-2153/ad805f.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
        >>> y_pred, std = model.calibrate(X[20:60], y[20:60]).predict(X[60:], return_std=True)
        """
        check_is_fitted(self, "fitted_")
        parameters = read_parameters(self)
        data = check_labels(self.fitted_, X, y, "y")
        train = None if X_train is None else check_labels(self.fitted_, X_train, y_train, "y_train")
        if train is None and self.fitted_.error_bars is None:
            raise ValueError(
                "The model has no error bars yet, so calibrate needs X_train and y_train, the "
                "structures and labels that it was trained on."
            )
        self.fitted_ = calibrate_model(parameters, self.fitted_, data, train)
        return self

    def features(self, X: Frames, atoms: Sequence[ArrayLike] | None = None) -> list[np.ndarray]:
        """Return the output of the hidden layers for every atom.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.
        atoms : sequence of index arrays or masks, default=None
            For each structure the atoms whose features are returned; None means all atoms.

        Returns
        -------
        list of arrays of shape (n_atoms, num_neurons_per_layer)
            Rotationally invariant features. Without hidden layers they are the normalised SOAP
            features.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            As in :meth:`predict`. Also a ValueError if ``atoms`` does not have one entry per
            structure.
        IndexError
            If an entry of ``atoms`` does not fit the number of atoms of its structure.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
        >>> model.features(X[:2])[0].shape
        (9, 32)
        >>> model.features(X[:2], atoms=[atoms.symbols == "O" for atoms in X[:2]])[0].shape
        (2, 32)
        """
        return self._select_features(X, FEATURES, atoms)

    def last_layer_features(
        self, X: Frames, target: str = "energy", atoms: Sequence[ArrayLike] | None = None
    ) -> list[np.ndarray]:
        """Return the last-layer features of a target, i.e. the input of its last layer, per atom.

        The last layer is linear in these features.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.
        target : str, default="energy"
            Name of a target that was learnt.
        atoms : sequence of index arrays or masks, default=None
            For each structure the atoms whose features are returned; None means all atoms.

        Returns
        -------
        list of arrays of shape (n_atoms, n_features)

        Raises
        ------
        NotFittedError, TypeError, ValueError, IndexError
            As in :meth:`features`. Also a ValueError if ``target`` is unknown.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
        >>> model.last_layer_features(X[:2])[0].shape
        (9, 32)
        """
        return self._select_features(X, target + LAST_LAYER, atoms)

    def score(self, X: Frames, y: Labels, sample_weight: ArrayLike | None = None) -> float:
        r"""Return :math:`R^2` of the energy, or of what :meth:`predict` returns without an energy.

        For a target with several components it is the mean over those that have labels. For other
        targets and metrics see :func:`sklearn_soapbpnn.metrics.make_target_scorer`.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.
        y : array of shape (n_structures,), or Targets
            Labels; missing labels (NaN) in Targets are ignored.
        sample_weight : array of shape (n_structures,), default=None
            Weights of the structures.

        Returns
        -------
        float
            At most 1. It is 0 for a model that always predicts the mean of the labels.

        Raises
        ------
        NotFittedError, TypeError
            As in :meth:`predict`.
        ValueError
            As in :meth:`predict`, or if y has no labels of the target, or y or ``sample_weight``
            does not match X.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
        >>> model.score(X[20:30], y[20:30]) < 1
        True
        """
        X = as_structures(X)
        y = as_targets(y, X)
        check_is_fitted(self, "fitted_")
        main = find_main(self.kinds_)
        if main not in list_labelled(y):
            raise ValueError(
                f"y needs labels of {main!r} to be scored, but its columns are {list(y.names)}. "
                "For other targets see sklearn_soapbpnn.metrics.make_target_scorer."
            )
        columns = [y[main], self.predict(X)]
        weight = _check_sample_weight(sample_weight, X.n_atoms, dtype=np.float64)
        if self.kinds_[main].per_atom:
            columns = [np.concatenate(column) for column in columns]
            weight = np.repeat(weight, X.n_atoms)
        known, predicted = (column.reshape(len(weight), -1) for column in columns)
        scores = []
        for label, value in zip(known.T, predicted.T):
            there = np.isfinite(label)
            if there.any():
                scores.append(r2_score(label[there], value[there], sample_weight=weight[there]))
        return float(np.mean(scores))

    def _finish(self, results, main, names):
        """Return results as Targets, or as an array if ``main`` names the only one."""
        kinds = self.kinds_
        if main is not None:
            values, kind = results[main], kinds[main]
            is_tensor = not kind.per_atom and kind.shape != ()
            return values.reshape(len(values), kind.size) if is_tensor else values
        columns = {name: results[name] for name in names}
        kinds = {name: find_output_kind(name, kinds, columns[name]) for name in names}
        return Targets(kinds=kinds, **columns)

    def _fit(self, before, resume=False, **data):
        """Fit the model; if an error is raised, the estimator keeps its previous fit."""
        parameters = read_parameters(self)
        processes = open_processes(self.distributed, self.distributed_port, self.device)
        with processes as group, usual_settings(), torch.enable_grad():
            checked = check_fit(parameters, before, **data)
            if self.verbose and group.rank == 0:
                print(title_fit(parameters, checked), flush=True)
                print(summarize_data(checked.X, checked.y, checked.validation), flush=True)
            fitted, net = fit_model(parameters, checked, resume, group)
        self.fitted_, self.net_ = fitted, net
        return self

    def _select_features(self, X, name, atoms):
        X = as_structures(X)
        columns = self.predict(X, targets=[name])[name]
        if atoms is None:
            return columns
        if len(atoms) != len(X):
            raise ValueError(
                f"atoms must list the atoms of each of the {len(X)} structures, got {len(atoms)} "
                "entries."
            )
        chosen = [as_position(entry, len(values)) for entry, values in zip(atoms, columns)]
        return [values[places] for values, places in zip(columns, chosen)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.non_deterministic = self.random_state is None
        return tags
