"""Bound children of labelled counters, found by a tuple in a tenth of a microsecond, and dropped by prefix.

No set of label values grows without end: beyond a bound everything new is counted under OTHER.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter

#: The label value of what is beyond the bound.
OTHER: Final = "_other_"
#: Label sets of one metric on one node. A thousand partitions of ten topics, and a scrape that still takes a moment.
MOST_SERIES: Final = 10_000

_Labels = tuple[str, str] | tuple[str, int] | tuple[str]


class Series(dict[_Labels, tuple[Counter, ...]]):
    """Children of counters that share their labels: `(topic, partition)`, `(topic, group)` or `(topic,)`."""

    def __init__(self, *counters: Counter, limit: int = MOST_SERIES) -> None:
        super().__init__()
        self._counters = counters
        self._limit = limit

    def __missing__(self, labels: _Labels) -> tuple[Counter, ...]:
        if len(self) >= self._limit:
            return tuple(counter.labels(*[OTHER] * len(labels)) for counter in self._counters)
        children = tuple(counter.labels(*labels) for counter in self._counters)
        self[labels] = children
        return children

    def add(self, labels: _Labels, amount: int) -> None:
        """Count on the first counter. The series exists from its first call on, also when that counts nothing."""
        child = self[labels][0]
        if amount > 0:
            child.inc(amount)

    def forget(self, *prefix: str) -> None:
        """Remove every child whose labels begin with `prefix`, here and from the counters."""
        for labels in [labels for labels in self if labels[: len(prefix)] == prefix]:
            del self[labels]
            for counter in self._counters:
                counter.remove(*labels)


class Kinds(dict[str, Counter]):
    """Children of a counter with one label whose values are a closed set, or OTHER beyond `limit` of them."""

    def __init__(self, counter: Counter, limit: int) -> None:
        super().__init__()
        self._counter = counter
        self._names = Names(limit)

    def __missing__(self, kind: str) -> Counter:
        name = self._names[kind]
        child = self._counter.labels(name)
        if name == kind:  # only what is bounded is remembered
            self[kind] = child
        return child


class Names(dict[str, str]):
    """A set of label values that cannot grow without end: from `limit` on, new ones are OTHER."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __missing__(self, name: str) -> str:
        if len(self) >= self._limit:
            return OTHER
        self[name] = name
        return name
