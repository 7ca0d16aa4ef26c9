"""What hides the graph of the losses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch._functorch.config as config

from mtl_ops.gradients.graph import allow_repeated_backward


class TestRepeatedBackward:
    @pytest.fixture(autouse=True)
    def setting(self) -> Iterator[None]:
        before = config.donated_buffer
        config.donated_buffer = True
        yield
        config.donated_buffer = before

    def compiler(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        monkeypatch.setitem(sys.modules, "torch._dynamo.convert_frame", module)

    @pytest.mark.parametrize("module", [None, SimpleNamespace(FRAME_COUNTER=0)])
    def test_is_allowed_before_anything_is_compiled(
        self, module: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.compiler(monkeypatch, module)
        allow_repeated_backward()
        assert not config.donated_buffer

    @pytest.mark.parametrize("module", [SimpleNamespace(FRAME_COUNTER=1), SimpleNamespace()])
    def test_is_left_alone_afterwards_and_where_it_cannot_be_told(
        self, module: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.compiler(monkeypatch, module)
        allow_repeated_backward()
        assert config.donated_buffer

    def test_torch_still_counts_what_it_compiles(self) -> None:
        import torch._dynamo.convert_frame

        assert isinstance(torch._dynamo.convert_frame.FRAME_COUNTER, int)
