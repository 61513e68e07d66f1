r"""Error bars from the spread of the networks of a committee.

The standard deviation of an output y is

.. math:: \sigma = \alpha_t \sqrt{\frac{1}{K - 1} \sum_{k=1}^K (y_k - \bar y)^2}

over K networks of different initial weights [1]_, which agree better than they should, since all
have seen the same structures. :math:`\alpha` makes up for that, as for a single network.

References
----------
.. [1] Imbalzano et al., "Uncertainty estimation for molecular dynamics and sampling", J. Chem.
   Phys. 154, 074102 (2021), doi:10.1063/5.0036522.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..nn import sum_by_index
from ._error_bars import ErrorBars, is_sum


@dataclass(frozen=True, kw_only=True)
class CommitteeSpread(ErrorBars):
    """Error bars from the spread of the networks of a committee.

    Parameters
    ----------
    scales
        See :class:`ErrorBars`.
    """

    def supports(self, network, name):
        """Return True: all outputs have a spread."""
        return True

    def stds(self, network, batch, outputs, names):
        """Return the standard deviations of outputs for a batch, see :class:`ErrorBars`."""
        values, index, stds = {**vars(outputs), **outputs.values}, batch.index, {}
        for name in names:
            value = values[name]
            if is_sum(network, name):
                value = sum_by_index(value, index.structure_of_atom, len(index))
            stds[name] = self.find_scale(name) * value.std(0)
        return stds

    def members(self, network, batch, outputs, names, n_members):
        """Return the outputs of the networks, spread about their mean as the error bars say."""
        values, members = {**vars(outputs), **outputs.values}, {}
        for name in names:
            scale, mean = self.find_common_scale(name, names), values[name].mean(0, keepdim=True)
            members[name] = mean + scale * (values[name][:n_members] - mean)
        return members
