"""Strikes at a field with faults of some kinds, and heals them."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence

from tests.faults.kinds import Fault
from tests.faults.programs.field import Field

# Seconds beyond an attack's time within which each fault has to have hit something.
PATIENCE = 60.0


class Striker:
    """Strikes with some kinds of faults, up to ``together`` at a time.

    Args:
        field: what it strikes at.
        kinds: of faults.
        rng: decides what, when and how long.
        together: how many faults there may be at a time.
        gaps: seconds between two strikes.
        pace: how long a fault lasts, as a part of the usual time.
    """

    def __init__(
        self,
        field: Field,
        kinds: Sequence[type[Fault]],
        rng: random.Random,
        *,
        together: int = 1,
        gaps: tuple[float, float] = (0.1, 0.7),
        pace: float = 1.0,
    ) -> None:
        self._field = field
        self._kinds = kinds
        self._rng = rng
        self._together = together
        self._gaps = gaps
        self._pace = pace
        self._active: list[tuple[float, Fault]] = []
        self.stopping = threading.Event()
        self.counts: Counter[str] = Counter()
        """Strikes that hit something, by the name of the fault."""

    def attack(self, seconds: float, *, each: bool = False) -> None:
        """Strikes for so long, with ``each`` until every kind has hit something; heals everything."""
        until = time.monotonic() + seconds
        try:
            while not self.stopping.is_set() and (time.monotonic() < until or (each and self._missing())):
                self._heal(time.monotonic())
                if time.monotonic() > until + PATIENCE:
                    raise AssertionError(f"these faults have hit nothing: {self._missing()}")
                self._strike()
                self.stopping.wait(self._rng.uniform(*self._gaps))
            while self._active and not self.stopping.is_set():
                self._heal(time.monotonic())
                self.stopping.wait(0.05)
        finally:
            self._heal(float("inf"))

    def _missing(self) -> list[str]:
        return [kind.name for kind in self._kinds if not self.counts[kind.name]]

    def _strike(self) -> None:
        groups = {fault.group for _, fault in self._active} - {""}
        kinds = [kind for kind in self._kinds if kind.group not in groups]
        if len(self._active) >= self._together or not kinds:
            return
        missing = [kind for kind in kinds if not self.counts[kind.name]]
        fault = self._rng.choice(missing or kinds)(self._field, self._rng)
        if fault.strike():
            self.counts[fault.name] += 1
        self._active.append((time.monotonic() + self._pace * self._rng.uniform(*fault.lasts), fault))

    def _heal(self, now: float) -> None:
        due = [entry for entry in self._active if entry[0] <= now]
        for entry in due:
            self._active.remove(entry)
            entry[1].heal()
