"""The contract suite of potentials on every kind of assembled model. The first two classes run all code; the others wait for the ci tier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.testing.contract_suites import PotentialContract

Builder = Callable[..., Any]


class TestConservativeWithTwoLevelsChargeAndSpin(PotentialContract):
    @pytest.fixture(autouse=True)
    def build(self, two_levels: Builder) -> None:
        self.build_potential = two_levels

    def potential(self) -> Potential:
        return self.build_potential()


class TestDirect(PotentialContract):
    @pytest.fixture(autouse=True)
    def build(self, small: Builder) -> None:
        self.build_potential = small

    def potential(self) -> Potential:
        return self.build_potential(forces="direct")


@pytest.mark.ci
class TestConservative(TestDirect):
    def potential(self) -> Potential:
        return self.build_potential()


@pytest.mark.ci
class TestDirectWithTwoLevelsChargeAndSpin(TestConservativeWithTwoLevelsChargeAndSpin):
    def potential(self) -> Potential:
        return self.build_potential(forces="direct")
