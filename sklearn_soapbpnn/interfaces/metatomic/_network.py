"""The network for TorchScript, differentiable by autograd.

It has the weights of a :class:`~sklearn_soapbpnn.nn.SoapBPNN` in an order that needs little code:
the power spectrum is not packed, and LayerNorm's affine part belongs to the first layer. Atoms that
share a set of weights are rows of one matrix; a list has one such matrix for each set.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...nn import SoapBPNN
from ._expansion import Expansion
from ._tensors import TensorBasis


class Network(nn.Module):
    """Everything from pairs of neighbours to values of atoms, in units of the scale.

    Parameters
    ----------
    network : SoapBPNN
        The network, without a long-range part.
    """

    def __init__(self, network: SoapBPNN) -> None:
        super().__init__()
        self.n_elements = len(network.elements)
        self.is_orthogonal = not network.first.own_elements
        self.expansion = Expansion(network.basis)
        self.first = FirstLayer(network)
        weights = [] if network.trunk is None else network.trunk.weights
        self.has_trunk = network.trunk is not None
        self.trunk = nn.ModuleList(_Linear(weight, network.n_networks) for weight in weights)
        self.heads = nn.ModuleList(Head(network, name) for name in network.kinds)
        n_hidden = network.n_networks * network.first.linear.weight.shape[1]
        self.n_features = n_hidden if self.has_trunk else network.first.n_features

    def forward(
        self,
        vectors: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        element: Tensor,
        atoms: Tensor,
        names: list[str],
    ) -> dict[str, Tensor]:
        """Evaluate some targets for some of the atoms.

        Parameters
        ----------
        vectors : Tensor of shape (n_pairs, 3)
            r_ij; each pair occurs once.
        centers, neighbors : Tensor of shape (n_pairs,)
            i and j.
        element : Tensor of shape (n_all_atoms,)
            Index of the element of each atom.
        atoms : Tensor of shape (n_atoms,)
            Atoms whose values are needed. The others are neighbours only.
        names : list of str
            Names of targets. With ``"features"`` and ``"energy_rows"`` there are also the features,
            (1, n_atoms, n), and the input of the last layer of the energy.

        Returns
        -------
        dict of str to Tensor of shape (n_networks, n_atoms, size)
        """
        # atoms that share weights are neighbours in memory
        order = torch.argsort(element[atoms], stable=True)
        atoms = atoms[order]
        own = element[atoms]
        blocks, block = self._list_blocks(element)
        expansion = self._expand(vectors, centers, neighbors, block, atoms, len(blocks))
        counts = [len(atoms)]
        if self.is_orthogonal:
            counts = _as_list(torch.bincount(own, minlength=self.n_elements))
        inputs = self.first.normalize(expansion, own, blocks)
        hidden = self.first(inputs.split(counts))
        features = hidden
        if self.has_trunk:
            features = _silu(hidden)
            for layer in self.trunk:
                features = _silu(layer(features))

        values: dict[str, Tensor] = {}
        for head in self.heads:
            rows = head.last_features(features)
            if head.name in names:
                values[head.name] = head(rows, expansion, own, blocks, counts)
            if head.name == "energy" and "energy_rows" in names:
                values["energy_rows"] = torch.cat(rows, dim=1)
        if "features" in names:
            if self.has_trunk:
                values["features"] = torch.cat(features, dim=1).transpose(0, 1).flatten(1)[None]
            else:
                values["features"] = self.first.pack(inputs)[None]
        back = torch.argsort(order)
        ordered: dict[str, Tensor] = {}
        for name, value in values.items():
            ordered[name] = value.index_select(1, back)
        return ordered

    def _list_blocks(self, element: Tensor) -> tuple[Tensor, Tensor]:
        """Return the elements of the blocks of an expansion, and the block of each atom.

        Pseudo-species need only those elements that are present.
        """
        if self.is_orthogonal:
            return torch.arange(self.n_elements, device=element.device), element
        blocks, block = torch.unique(element, return_inverse=True)
        return blocks, block

    def _expand(
        self,
        vectors: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        block: Tensor,
        atoms: Tensor,
        n_blocks: int,
    ) -> list[Tensor]:
        """Return the expansions of some atoms: (n_atoms, n_blocks, n_radial, 2l+1) for each l."""
        row = torch.full_like(block, -1)
        row[atoms] = torch.arange(len(atoms), device=atoms.device)
        i = row[torch.cat([centers, neighbors])]
        j = torch.cat([neighbors, centers])
        needed = torch.nonzero(i >= 0)[:, 0]
        both = torch.cat([vectors, -vectors])[needed]
        return self.expansion(both, i[needed], block[j[needed]], len(atoms), n_blocks)


class FirstLayer(nn.Module):
    """First layer, with orthogonal species or with pseudo-species.

    Parameters
    ----------
    network : SoapBPNN
        Network whose weights are used.
    """

    def __init__(self, network: SoapBPNN) -> None:
        super().__init__()
        first, n_networks = network.first, network.n_networks
        spectrum = first.spectrum
        self.n_full = spectrum.n_full
        weight, bias = first.linear.weight.detach(), None
        embedding, encoding = None, None
        if first.own_elements:
            embedding, encoding = first.embedding.detach(), first.encoding.detach()
            self.is_normalized = isinstance(first.norm, nn.LayerNorm)
            scale, shift = torch.ones_like(weight[0, 0]), torch.zeros_like(weight[0, 0])
            if self.is_normalized:
                scale, shift = first.norm.weight.detach(), first.norm.bias.detach()
                weight, bias = weight * scale, weight @ shift
            packed = torch.arange(self.n_full)
        else:
            self.is_normalized = first.bias is not None
            bias = None if first.bias is None else first.bias.detach()
            half, weight = weight * spectrum.half_weight, weight.new_zeros(())
            weight = half.new_zeros(*half.shape[:2], self.n_full)
            weight.index_add_(2, spectrum.upper, half).index_add_(2, spectrum.lower, half)
            packed, scale = spectrum.upper, spectrum.weight
            shift = torch.zeros_like(scale)
        self.linear = _Linear(weight, n_networks)
        self.register_buffer("embedding", embedding)
        self.register_buffer("encoding", encoding)
        self.register_buffer("bias", None if bias is None else _by_set(bias, n_networks))
        # from the normalised spectrum to the features that the library shows
        for name, buffer in {"packed": packed, "scale": scale, "shift": shift}.items():
            self.register_buffer(name, buffer.clone())

    def normalize(self, expansion: list[Tensor], element: Tensor, blocks: Tensor) -> Tensor:
        """Return the normalised power spectrum without LayerNorm's affine part."""
        gram: list[Tensor] = []
        for c in expansion:
            if self.embedding is not None:
                c = torch.einsum("ab,ianm->ibnm", self.embedding[blocks], c)
            c = c.flatten(1, 2)
            gram.append(torch.bmm(c, c.transpose(1, 2)).flatten(1))
        spectrum = torch.cat(gram, dim=1)
        if self.encoding is not None:
            spectrum = spectrum * self.encoding[element]
        return F.layer_norm(spectrum, [self.n_full]) if self.is_normalized else spectrum

    def forward(self, parts: list[Tensor]) -> list[Tensor]:
        """Return the preactivations, (n_networks, n_rows, n_outputs) for each set."""
        hidden: list[Tensor] = []
        for k, x in enumerate(self.linear(parts)):
            hidden.append(x if self.bias is None else x + self.bias[k][:, None])
        return hidden

    def pack(self, spectrum: Tensor) -> Tensor:
        """Return the features that the library shows if there are no hidden layers."""
        return spectrum[:, self.packed] * self.scale + self.shift


class Head(nn.Module):
    """Head of a target, see :class:`~sklearn_soapbpnn.nn._readout.Head`.

    Parameters
    ----------
    network : SoapBPNN
        Network whose weights are used.
    name : str
        Name of the target.
    """

    def __init__(self, network: SoapBPNN, name: str) -> None:
        super().__init__()
        head, kind = network.head(name), network.kinds[name]
        self.name = name
        width = network.first.linear.weight.shape[1]
        self.columns = network.columns[name].indices(width)[:2]
        # SiLU stands before each layer; a trunk has applied that of the first one already
        self.activate = network.trunk is None and network.is_mlp[name]
        weights = head.weights
        self.layers = nn.ModuleList(_Linear(w, network.n_networks) for w in weights[:-1])
        self.last = _Linear(weights[-1], network.n_networks) if weights else None
        self.bases = nn.ModuleList(
            TensorBasis(basis, block.n_properties) for basis, block in zip(head.bases, kind.blocks)
        )
        self.n_properties = kind.blocks[0].n_properties
        self.register_buffer("transform", head.transform)

    def last_features(self, features: list[Tensor]) -> list[Tensor]:
        """Return the input of the last layer."""
        first, stop = self.columns
        rows = [x[:, :, first:stop] for x in features]
        if self.activate:
            rows = _silu(rows)
        for layer in self.layers:
            rows = _silu(layer(rows))
        return rows

    def forward(
        self,
        rows: list[Tensor],
        expansion: list[Tensor],
        element: Tensor,
        blocks: Tensor,
        counts: list[int],
    ) -> Tensor:
        """Return the flattened values of the atoms: (n_networks, n_atoms, size)."""
        if self.last is not None:
            rows = self.last(rows)
        invariants = torch.cat(rows, dim=1)
        parts: list[Tensor] = []
        first = 0
        for basis in self.bases:
            part = invariants[:, :, first : first + basis.n_invariants]
            parts.append(basis(part, expansion, element, blocks, counts))
            first += basis.n_invariants
        values = torch.cat(parts, dim=2)
        if self.transform is None:
            return values
        values = values.unflatten(2, [-1, self.n_properties])
        return torch.einsum("cs,nisp->nicp", self.transform, values).flatten(2)


class _Linear(nn.Module):
    """Linear maps, one for each set of weights and network."""

    def __init__(self, weight: Tensor, n_networks: int) -> None:
        super().__init__()
        self.register_buffer("weight", _by_set(weight, n_networks).transpose(2, 3).contiguous())

    def forward(self, parts: list[Tensor]) -> list[Tensor]:
        """Map (n_rows, n_inputs), or (n_networks, n_rows, n_inputs), for each set."""
        results: list[Tensor] = []
        for k, x in enumerate(parts):
            results.append(torch.matmul(x, self.weight[k]))
        return results


def _by_set(values: Tensor, n_networks: int) -> Tensor:
    """Separate the networks of each set."""
    return values.detach().unflatten(0, (-1, n_networks)).clone()


def _as_list(counts: Tensor) -> list[int]:
    values: list[int] = counts.tolist()
    return values


def _silu(parts: list[Tensor]) -> list[Tensor]:
    return [F.silu(x) for x in parts]
