"""Ways into a regressor and out of it: files, options of metatrain, ASE."""

from .interfaces.files import read_model, save_model
from .training import read_parameters


class Conversions:
    """The part of :class:`SoapBPNNRegressor` that other programs and files meet."""

    @classmethod
    def from_metatrain(cls, path):
        """Return the fitted model of a metatrain checkpoint.

        It gives metatrain's numbers, and goes on learning with ``warm_start=True``.

        Parameters
        ----------
        path : str or path
            A checkpoint (``.ckpt``) of metatrain's ``soap_bpnn``, of a source that you trust:
            reading it runs code in it. The best epoch is taken.

        Returns
        -------
        SoapBPNNRegressor
            Targets have metatrain's names, without the prefix ``mtt::``.

        Raises
        ------
        ImportError
            If metatrain is not installed; it is needed for reading, not afterwards.
        FileNotFoundError, ValueError
            If there is no such file, it is not such a checkpoint, or its model has an option
            without a counterpart.

        Warns
        -----
        UserWarning
            If training options have no counterpart and are left out; predictions do not depend on
            them.
        """
        from .interfaces.metatrain import read_checkpoint

        parameters, make_fitted = read_checkpoint(path)
        model = cls(**parameters)
        return model.set_fitted(make_fitted(read_parameters(model)))

    @classmethod
    def from_options(cls, path):
        """Return an unfitted model with the hyperparameters of a metatrain ``options.yaml``.

        Parameters
        ----------
        path : str, path or dict
            The file, or what it holds.

        Returns
        -------
        SoapBPNNRegressor

        Raises
        ------
        ValueError
            If options have no counterpart; the message names them all.
        """
        from .interfaces.metatrain import read_options

        return cls(**read_options(path))

    def to_options(self, path=None):
        """Return the hyperparameters as metatrain's options.

        Parameters
        ----------
        path : str or path, default=None
            Where to write them as YAML; None writes nothing.

        Returns
        -------
        dict
            What a metatrain ``options.yaml`` holds, but for the data.
        """
        from .interfaces.metatrain import write_options

        return write_options(self, path)

    def save(self, path):
        """Write the fitted model to a file that runs no code when it is read.

        Parameters
        ----------
        path : str or path
            One safetensors file with everything that is needed to predict and to go on learning.

        Raises
        ------
        TypeError
            If a parameter holds an object that a file cannot, such as callbacks.

        See Also
        --------
        sklearn_soapbpnn.interfaces.save_model : The same for Pipelines as well.
        """
        save_model(self, path)

    @classmethod
    def load(cls, path):
        """Read a model that :meth:`save` wrote.

        Parameters
        ----------
        path : str or path
            The file; it may come from anyone.

        Returns
        -------
        SoapBPNNRegressor, or Pipeline if one was saved

        Raises
        ------
        ValueError
            If the file is damaged, no such file, or of a later version.
        """
        return read_model(path, cls)

    def calculator(self, **kwargs):
        """Return an ASE calculator of the fitted model.

        Parameters
        ----------
        **kwargs
            See :class:`~sklearn_soapbpnn.interfaces.ase.SoapBPNNCalculator`.

        Returns
        -------
        SoapBPNNCalculator
        """
        from .interfaces.ase import SoapBPNNCalculator

        return SoapBPNNCalculator(self, **kwargs)
