"""Which old dimensions a reshape makes into which new ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence


def regroup(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of neighbouring dimensions, (old ones, new ones), that hold equally many elements.

    Both sides are walked in row-major order. A dimension of size 1 that comes or goes has no counterpart; a tensor without elements
    can't be matched, so all its dimensions are one run.
    """
    if 0 in old:
        yield list(range(len(old))), list(range(len(new)))
        return
    i = j = 0
    while i < len(old) or j < len(new):
        if i == len(old) or (j < len(new) and new[j] == 1 and old[i] != 1):
            yield [], [j]
            j += 1
        elif j == len(new) or (old[i] == 1 and new[j] != 1):
            yield [i], []
            i += 1
        else:
            olds, news = [i], [j]
            i, j = i + 1, j + 1
            while (have := math.prod(old[d] for d in olds)) != (want := math.prod(new[d] for d in news)):
                if have < want:
                    olds.append(i)
                    i += 1
                else:
                    news.append(j)
                    j += 1
            yield olds, news
