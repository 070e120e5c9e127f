"""Element-wise types of tensor dimensions: who must stay together when channels go.

A dimension of size n is typed by a *table*, an integer array ``[n, k]``: row i is a conjunction of ids, and element i
of the dimension stays when all its ids stay. ``k`` is nearly always 1; it grows when a reshape splits a dimension (32
groups of 4 channels: an element stays when its group and its place in the group stay). Id 0 stands for "always stays".
``None`` types a dimension that is never sliced (batch, space, tokens).

`Ids` is the unification engine: a union-find over ids, and *bindings* that replace one id by a conjunction.
"""

from __future__ import annotations

import numpy as np

Table = np.ndarray
Dim = Table | None


class Ids:
    """Fresh ids, ties between them, and what must never be sliced. All operations work on whole tables at once."""

    def __init__(self) -> None:
        self._parents = np.zeros(1024, dtype=np.int64)  # grows by doubling: appending would copy it for every axis
        self._is_bound = np.zeros(1024, dtype=bool)
        self._bound = np.zeros((1024, 2), dtype=np.int64)  # the conjunction that stands for a bound id
        self.label: list[str] = ["always"]
        self.born: list[int] = [-1]
        self._frozen: list[tuple[Table, str]] = []
        self._inexact: list[Table] = []
        self._ties: list[tuple[Table, str]] = []

    def fresh(self, size: int, label: str, born: int) -> Table:
        """A table ``[size, 1]`` of new ids; `label` names the axis that they may become, `born` orders it."""
        start = len(self.label)
        while start + size > len(self._parents):
            self._parents, self._is_bound, self._bound = (
                np.concatenate([a, np.zeros_like(a)]) for a in (self._parents, self._is_bound, self._bound)
            )
        self._parents[start : start + size] = np.arange(start, start + size)
        self.label += [label] * size
        self.born += [born] * size
        return np.arange(start, start + size)[:, None]

    def freeze(self, dim: Dim, reason: str) -> None:
        """Whatever these ids become, they stay whole. The first reason given is the one that is shown."""
        if dim is not None:
            self._frozen.append((dim, reason))

    def inexact(self, dim: Dim) -> None:
        """Slicing these ids is legal but changes statistics that are taken over them."""
        if dim is not None:
            self._inexact.append(dim)

    def resolve(self, table: Table) -> Table:
        """The table in terms of representatives: unions followed, bindings expanded, repeated ids of a row dropped."""
        table = self._find(table)
        while (hit := self._is_bound[table]).any():
            alone = np.zeros((*table.shape, self._bound.shape[1]), dtype=np.int64)
            alone[:, :, 0] = table
            expanded = np.where(hit[:, :, None], self._bound[table], alone).reshape(len(table), -1)
            table = self._find(expanded[:, expanded.any(0)])
        return _compact(table)

    def tie(self, a: Dim, b: Dim, reason: str) -> None:
        """Element i of `a` stays exactly when element i of `b` does. Against an untyped dimension both stay whole."""
        if a is None or b is None:
            self.freeze(a if b is None else b, f"{reason}: it meets what stays whole")
            return
        if a.shape[0] != b.shape[0]:
            raise ValueError(f"tie of {a.shape[0]} elements with {b.shape[0]}: {reason}")
        odd = f"{reason}: it meets channels that don't match it one to one"
        while True:
            a, b = self.resolve(a), self.resolve(b)
            a, b = _without_common(a, b)
            rows = a.any(1) | b.any(1)
            if not rows.any():
                return
            a, b = a[rows], b[rows]
            self._ties.append((a, reason))
            empty = ~a.any(1) | ~b.any(1)  # one side always stays
            if empty.any():
                self.freeze(a[empty], odd)
                self.freeze(b[empty], odd)
                a, b = a[~empty], b[~empty]
                if not len(a):
                    return
            single_a, single_b = (a > 0).sum(1) == 1, (b > 0).sum(1) == 1
            if (single_a & single_b).any():
                both = single_a & single_b
                self._union(a[both].max(1), b[both].max(1))
            elif (single_a ^ single_b).any():
                self._bind(a, b, single_a & ~single_b)
                self._bind(b, a, single_b & ~single_a)
            else:  # pair the columns in order, slow-varying first; what is left over stays whole. Sound, if coarse.
                k = min(a.shape[1], b.shape[1])
                for c in range(k):
                    both = (a[:, c] > 0) & (b[:, c] > 0)
                    self._union(a[both, c], b[both, c])
                for side, other in ((a, b), (b, a)):
                    alone = side[:, :k] * (other[:, :k] == 0)
                    self.freeze(alone, odd)
                    self.freeze(side[:, k:], odd) if side.shape[1] > k else None
                return

    def split(self, table: Dim, n: int, m: int, labels: tuple[str, str], reason: str) -> tuple[Dim, Dim]:
        """The types of sizes n (slow) and m (fast) that a dimension of n*m elements falls into.

        A column that is constant along one side goes to the other; any other column is bound to fresh ids of both
        sides, so that the slice stays a rectangle.
        """
        if table is None:
            return None, None
        table = self.resolve(table)
        slow, fast = [], []
        for column in table.T.reshape(-1, n, m):
            if (column == column[:, :1]).all():
                slow.append(column[:, 0])
            elif (column == column[:1]).all():
                fast.append(column[0])
            else:
                born = min(self.born[i] for i in column.flat)
                u, w = self.fresh(n, labels[0], born), self.fresh(m, labels[1], born)
                grid = merge(u, w, n, m)
                self.tie(column.reshape(-1, 1), grid, reason)
                slow.append(u[:, 0])
                fast.append(w[:, 0])
        stack = lambda columns: _compact(np.stack(columns, axis=1)) if columns else None  # noqa: E731
        return _none_if_constant(stack(slow)), _none_if_constant(stack(fast))

    def eldest(self) -> dict[int, tuple[int, int]]:
        """Representative id -> (birth, id) of the eldest among those that it stands for, which gives them their name."""
        born = np.asarray(self.born)
        order = np.argsort(born, kind="stable")
        roots, first = np.unique(self._find(order), return_index=True)
        eldest = order[first]
        return dict(zip(roots.tolist(), zip(born[eldest].tolist(), eldest.tolist(), strict=True), strict=True))

    def frozen(self) -> dict[int, str]:
        """Representative id -> why it stays whole."""
        reasons: dict[int, str] = {}
        for table, reason in self._frozen:
            for i in np.unique(self.resolve(table)):
                reasons.setdefault(int(i), reason)
        return reasons

    def ties(self) -> dict[int, dict[str, None]]:
        """Representative id -> what tied it to others, each once, in the order of the network."""
        found: dict[int, dict[str, None]] = {}
        for table, reason in self._ties:
            for i in np.unique(self.resolve(table)).tolist():
                found.setdefault(i, {})[reason] = None
        return found

    def not_exact(self) -> set[int]:
        """Representative ids whose slice is legal but not exact."""
        return {int(i) for table in self._inexact for i in np.unique(self.resolve(table))}

    def _find(self, ids: np.ndarray) -> np.ndarray:
        found = self._parents[ids]
        while True:
            above = self._parents[found]
            if (above == found).all():
                return found
            found = above

    def _union(self, a: np.ndarray, b: np.ndarray) -> None:
        """Repeated until stable, because duplicates within one call write to the same parent."""
        while True:
            a_root, b_root = self._find(a), self._find(b)
            high, low = np.maximum(a_root, b_root), np.minimum(a_root, b_root)
            if (high == low).all():
                return
            np.minimum.at(self._parents, high, low)

    def _bind(self, single: Table, many: Table, rows: np.ndarray) -> None:
        """Replace the one id of each row of `single` by the conjunction in `many` (the first row of each id; `tie`
        repeats).
        """
        chosen = np.flatnonzero(rows)
        ids, first = np.unique(single.max(1)[chosen], return_index=True)
        conjunctions = many[chosen[first]]
        free = ~(self._is_bound[ids] | self._is_bound[conjunctions].any(1) | (self._find(conjunctions) != conjunctions).any(1))
        alone = free & ~np.isin(conjunctions, ids).any(1)
        if not alone.any():  # they stand for each other: one now, the others are seen resolved in the next round
            alone[np.flatnonzero(free)[:1]] = True
        if conjunctions.shape[1] > self._bound.shape[1]:
            self._bound = np.pad(self._bound, ((0, 0), (0, conjunctions.shape[1] - self._bound.shape[1])))
        self._bound[ids[alone], : conjunctions.shape[1]] = conjunctions[alone]
        self._is_bound[ids[alone]] = True


def merge(a: Dim, b: Dim, n: int, m: int) -> Dim:
    """The type of two neighbouring dimensions of sizes n (slow) and m (fast) flattened into one."""
    if a is None and b is None:
        return None
    slow = np.zeros((n, 1), dtype=np.int64) if a is None else a
    fast = np.zeros((m, 1), dtype=np.int64) if b is None else b
    return _compact(np.concatenate([np.repeat(slow, m, axis=0), np.tile(fast, (n, 1))], axis=1))


def _compact(table: Table) -> Table:
    """Drop ids repeated within a row and columns that say nothing; at least one column stays."""
    if table.shape[1] == 1:
        return table
    table = table.copy()
    for c in range(1, table.shape[1]):
        repeated = (table[:, :c] == table[:, c : c + 1]).any(1)
        table[repeated, c] = 0
    keep = table.any(0)
    return table[:, keep] if keep.any() else table[:, :1]


def _without_common(a: Table, b: Table) -> tuple[Table, Table]:
    """Rows without the ids that they share: what both sides ask for needs no tie."""
    in_b = (a[:, :, None] == b[:, None, :]).any(2)
    in_a = (b[:, :, None] == a[:, None, :]).any(2)
    return _compact(np.where(in_b, 0, a)), _compact(np.where(in_a, 0, b))


def _none_if_constant(dim: Dim) -> Dim:
    return None if dim is None or not dim.any() else dim
