"""Conversions of a regressor: model files, metatrain's checkpoints and options, engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from .data import FilePath
from .interfaces.files import read_model, save_model
from .training import read_parameters

if TYPE_CHECKING:
    from .interfaces.ase import SoapBPNNCalculator


class Conversions:
    """Methods of :class:`SoapBPNNRegressor` that convert from and to files and other programs."""

    @classmethod
    def from_metatrain(cls, path: FilePath) -> Self:
        """Return a fitted model with the weights of a metatrain checkpoint.

        Its predictions are those of metatrain. To continue training, use :meth:`partial_fit`.

        Parameters
        ----------
        path : str or path
            A checkpoint (``.ckpt``) of metatrain's ``soap_bpnn``. It must come from a source that
            you trust, since reading it can run code. The weights of the best epoch are used.

        Returns
        -------
        SoapBPNNRegressor
            Its targets have metatrain's names, without the prefix ``mtt::``.

        Raises
        ------
        ImportError
            If metatrain is not installed. It is needed only to read the checkpoint.
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not such a checkpoint, or if its model has an option without a
            counterpart.

        Warns
        -----
        UserWarning
            If training options have no counterpart and are left out; predictions do not depend on
            them.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> model = SoapBPNNRegressor.from_metatrain("model.ckpt")  # doctest: +SKIP
        """
        from .interfaces.metatrain import read_checkpoint

        parameters, make_fitted = read_checkpoint(path)
        model: Any = cls(**parameters)
        return model.set_fitted(make_fitted(read_parameters(model)))

    @classmethod
    def from_options(cls, path: FilePath | Mapping[str, Any]) -> Self:
        """Return an unfitted model with the hyperparameters of a metatrain ``options.yaml``.

        Parameters
        ----------
        path : str, path or dict
            The file, or its content.

        Returns
        -------
        SoapBPNNRegressor

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the file is not YAML or is for another architecture, or if options are unknown or
            have no counterpart; the message names all of them.

        Warns
        -----
        UserWarning
            If the options contain data sets or other entries that are not constructor arguments.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> architecture = {"name": "soap_bpnn", "training": {"num_epochs": 20}}
        >>> SoapBPNNRegressor.from_options({"architecture": architecture}).num_epochs
        20
        """
        from .interfaces.metatrain import read_options

        return cls(**read_options(path))

    def to_options(self, path: FilePath | None = None) -> dict[str, Any]:
        """Return the hyperparameters as metatrain's options.

        Parameters
        ----------
        path : str or path, default=None
            File to which the options are also written, as YAML.

        Returns
        -------
        dict
            Content of a metatrain ``options.yaml``, without the data sets.

        Raises
        ------
        ValueError
            If an argument is invalid or has no counterpart; the message names all of them.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> options = SoapBPNNRegressor(optimizer="adam", num_epochs=20).to_options()
        >>> options["architecture"]["training"]["num_epochs"]
        20
        """
        from .interfaces.metatrain import write_options

        return write_options(self, path)

    def save(self, path: FilePath) -> None:
        """Write the fitted model to a file; reading such a file runs no code.

        Parameters
        ----------
        path : str or path
            The file, in the safetensors format. It contains everything that is needed to predict
            and to continue training. An existing file is replaced.

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        TypeError
            If a parameter contains an object that cannot be stored, such as ``callbacks``.
        ValueError
            If parameters that belong to the weights were changed after fit, or if weights are not
            finite.
        OSError
            If the file cannot be written.

        See Also
        --------
        sklearn_soapbpnn.interfaces.save_model : The same for a Pipeline.

        Examples
        --------
        See :meth:`load`.
        """
        save_model(self, path)

    @classmethod
    def load(cls, path: FilePath) -> Any:
        """Read a model that was written by :meth:`save`.

        Parameters
        ----------
        path : str or path
            The file. It need not come from a trusted source, since reading it runs no code.

        Returns
        -------
        SoapBPNNRegressor or Pipeline
            The fitted model; a Pipeline if a Pipeline was saved. It is on its ``device`` if this
            machine has it, otherwise on the CPU.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ImportError
            If the model needs torch-pme, which is not installed.
        ValueError
            If the file is damaged, is not a model file, or was written by a newer version.

        Examples
        --------
        >>> import os, tempfile
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.safetensors")
        ...     model.save(path)
        ...     loaded = SoapBPNNRegressor.load(path)
        >>> bool((loaded.predict(X[20:22]) == model.predict(X[20:22])).all())
        True
        """
        return read_model(path, cls)

    def export(self, path: FilePath) -> None:
        """Write the fitted model to a file for the engines of metatomic, such as i-PI and LAMMPS.

        The file needs neither this package nor an extension of torch.

        Parameters
        ----------
        path : str or path
            The file, usually with the ending ``.pt``. An existing file is replaced.

        Raises
        ------
        ImportError
            If metatomic is not installed.
        NotFittedError
            If the model is not fitted.
        ValueError
            If the model has a long-range part, or was fitted in a Pipeline (use ``export_model``
            then).

        See Also
        --------
        sklearn_soapbpnn.interfaces.metatomic.export_model : The same for a Pipeline.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
        >>> model.export("model.pt")  # doctest: +SKIP
        """
        from .interfaces.metatomic import export_model

        export_model(self, path)

    def calculator(self, **kwargs: Any) -> SoapBPNNCalculator:
        """Return an ASE calculator of the fitted model.

        Parameters
        ----------
        **kwargs
            See :class:`~sklearn_soapbpnn.interfaces.ase.SoapBPNNCalculator`.

        Returns
        -------
        SoapBPNNCalculator

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        ValueError
            If the model has learnt no property of ASE's calculators, or was fitted in a Pipeline
            (use ``SoapBPNNCalculator(pipeline)`` then).

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
        >>> atoms = X[20].copy()
        >>> atoms.calc = model.calculator()
        >>> atoms.get_forces().shape
        (9, 3)
        """
        from .interfaces.ase import SoapBPNNCalculator

        return SoapBPNNCalculator(self, **kwargs)
