"""Calls of the raw operators that nobody should make: the definition's answer, or an error and nothing changed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from samples import SAMPLES
from task_rows import EPSILON
from torch import Tensor

from mtl_ops import ops, reference

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OTHERS = [torch.int64, torch.complex64, torch.bool, torch.float8_e4m3fn]
NAMES = ["gram", "merge_", "merge_graddrop_", "merge_trimmed_mean_", "merge_median_"]
NAMES += ["merge_sign_agreement_"]
BOUNDED = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

#: What clear errors say; the last is torch's own, of a call of the raw operator without any tensor.
CLEAR = (" should ", "needs the Gram matrix", "There were no tensor arguments")

#: Mostly what is right, sometimes what is not.
NUMBERS = st.sampled_from([None] * 30 + [0.5, 1.0, 0.0, 1e300, math.inf] * 2 + [math.nan, -1.0])
SEGMENT = st.sampled_from([0] * 60 + [1, 2, 3] * 20 + [-1, 65536, 2**31, 2**63 - 1, -(2**63)])


def rarely(draw: Any, odds: int = 12) -> bool:
    """Once in about so many draws."""
    return bool(draw(st.integers(0, odds)) == odds)


@dataclass
class Call:
    """A call of an operator, and every piece of memory that it could reach."""

    name: str
    args: list[Any]
    memory: list[Tensor] = field(default_factory=list)


@st.composite
def calls(draw: Any) -> Call:
    """A call that is mostly right."""
    call = Call(draw(st.sampled_from(NAMES)), [])
    tasks = draw(st.sampled_from([1, 2, 2, 3, 3, 3, 4, 9, 17]))
    count = draw(st.integers(0 if rarely(draw) else 1, 3))
    columns = [draw_column(draw, call, tasks) for _ in range(count)]
    rows = [column[1][t] for t in range(tasks) for column in columns]
    out = [column[0] for column in columns]
    if rarely(draw):
        rows = rows[:-1] if draw(st.booleans()) else [*rows, None]
    if rarely(draw, 20) and len(out) > 1:
        out = out[:-1] if draw(st.booleans()) else [*out[:-1], out[0]]
    if rarely(draw, 8) and rows and out:
        alias(draw, call, rows, out)
    segments = [draw(SEGMENT) for _ in range(draw(st.sampled_from([0, count, count])))]
    if rarely(draw, 20):
        segments.append(0)
    shared = rows, segments, draw(NUMBERS)
    total = max((s for s in segments if 0 <= s < 100), default=0) + 1
    if call.name == "gram":
        call.args = [rows, draw(st.sampled_from([tasks] * 20 + [0, -1, 65, 2**62])), *shared[1:]]
    elif call.name == "merge_":
        weights = draw_matrix(draw, call, (total, tasks))
        gram = draw_matrix(draw, call, (total, tasks, tasks)) if draw(st.booleans()) else None
        call.args = [out, rows, weights, gram, segments, draw(NUMBERS), draw(NUMBERS)]
        call.args.append(draw(st.booleans()))
    else:
        scale = draw_matrix(draw, call, (total, tasks)) if draw(st.booleans()) else None
        call.args = [out, rows, scale, segments, draw(NUMBERS), draw(st.booleans())]
        call.args += draw_own(draw, call, out, tasks)
    return call


def draw_column(draw: Any, call: Call, tasks: int) -> tuple[Tensor, list[Tensor | None]]:
    """An output and T gradients of one parameter, mostly of one shape, dtype and device."""
    shape = draw(st.sampled_from([(), (1,), (0,), (3,), (5, 7), (4100,), (2, 3, 4)]))
    dtype = draw(st.sampled_from(FLOATS * 30 + OTHERS))
    made = [draw_tensor(draw, call, shape, dtype) for _ in range(tasks + 1)]
    missing = {0} if rarely(draw, 6) else set()
    if rarely(draw, 40):
        missing = set(range(tasks))
    return made[0], [None if t in missing else row for t, row in enumerate(made[1:])]


def draw_tensor(draw: Any, call: Call, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Mostly plain; strided, permuted, expanded, lazy, misplaced or of another shape or dtype if not."""
    odd = draw(st.integers(-240, 60))
    device = "meta" if odd == 60 else "cpu"
    if odd == 59:
        shape = (*shape, 2)
    if odd == 58:
        dtype = draw(st.sampled_from(FLOATS))
    seed = draw(st.integers(0, 2**16))
    if odd == 57 and shape:
        base = numbers(shape[1:], dtype, device, seed)
        call.memory.append(base)
        return base.expand(shape)
    if odd > 53 and shape:
        wide = numbers((*shape, 2), dtype, device, seed)
        call.memory.append(wide)
        return wide[..., 0]
    tensor = numbers(shape, dtype, device, seed)
    call.memory.append(tensor)
    if odd > 49 and len(shape) > 1:
        turned = numbers(tuple(reversed(shape)), dtype, device, seed)
        call.memory.append(turned)
        return turned.permute(*range(len(shape) - 1, -1, -1))
    if odd > 45 and dtype in FLOATS and device == "cpu":
        return torch._neg_view(tensor)
    return tensor


def numbers(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).to(device)


def alias(draw: Any, call: Call, rows: list[Tensor | None], out: list[Tensor]) -> None:
    """Lets an output be a gradient, or begin elsewhere in it, or share memory with another output."""
    p, t = draw(st.integers(0, len(out) - 1)), draw(st.integers(0, 2))
    place = t * len(out) + p
    if place >= len(rows) or out[p].dtype not in FLOATS or out[p].is_meta:
        return
    shape, count = out[p].shape, out[p].numel()
    block = numbers((count + 8,), out[p].dtype, "cpu", 5)
    call.memory.append(block)
    shift = draw(st.sampled_from([0, 0, 0, 1, 3, 8]))
    rows[place] = block[:count].view(shape)
    out[p] = block[shift : shift + count].view(shape)
    if rarely(draw, 4):
        out[draw(st.integers(0, len(out) - 1))] = block[8 : 8 + count].view(shape)


def draw_matrix(draw: Any, call: Call, shape: tuple[int, ...]) -> Tensor:
    """Mostly float64, contiguous and large enough."""
    odd = draw(st.integers(-60, 40))
    if odd == 40:
        shape = shape[1:]
    if odd == 39:
        shape = (*shape[:-1], shape[-1] + 1)
    if odd == 38:
        shape = (0, *shape[1:])
    dtype = torch.float32 if odd == 37 else torch.float64
    matrix = numbers(shape, dtype, "meta" if odd == 36 else "cpu", draw(st.integers(0, 99)))
    call.memory.append(matrix)
    if odd == 35:
        return matrix.transpose(0, -1) if matrix.dim() else matrix
    return matrix


def draw_own(draw: Any, call: Call, out: list[Tensor], tasks: int) -> list[Any]:
    """The arguments that only one of the operators has."""
    if call.name == "merge_trimmed_mean_":
        return [draw(st.sampled_from([0, 1, 2] * 6 + [2**40, 2**63 - 1, -1, -(2**63)]))]
    if call.name == "merge_sign_agreement_":
        return [draw(st.sampled_from([0.0, 0.5, 1.0, 1.0] * 4 + [math.nan, -1.0, 1e300])), True]
    if call.name == "merge_median_":
        return []
    leak = [draw(st.sampled_from([0.0, 0.0, 0.25, 1.0])) for _ in range(tasks)]
    if rarely(draw, 8):
        leak = draw(st.sampled_from([leak[1:], [*leak, 0.0], [math.nan] * tasks, [2.0] * tasks]))
    first = [draw(st.sampled_from([0, 0, 7, 64, 1000])) for _ in out]
    if rarely(draw, 8):
        first = draw(st.sampled_from([first[1:], [-1] * len(out), [2**63 - 1] * len(out)]))
    first = first if draw(st.booleans()) else []
    uniforms = None
    if draw(st.booleans()):
        needed = sum(target.numel() for target in out) if not first else 9000
        uniforms = torch.rand(needed + (1 if rarely(draw, 9) else 0), dtype=torch.float64)
        if rarely(draw, 9):
            uniforms = uniforms.to("meta")
        call.memory.append(uniforms)
    return [leak, draw(st.sampled_from([0, 7, 2**63 - 1, -(2**63)])), 3, uniforms, first]


def cloned(value: Any) -> Any:
    """Tensors of their own memory, with the same values."""
    if isinstance(value, list):
        return [cloned(item) for item in value]
    return value.to_dense().clone().contiguous() if isinstance(value, Tensor) else value


@BOUNDED
@given(calls())
def test_the_definition_or_an_error(call: Call) -> None:
    before = [memory.clone() for memory in call.memory]
    expected = cloned(call.args)
    try:
        found = getattr(torch.ops.mtl_ops, call.name)(*call.args)
    except (RuntimeError, ValueError) as error:
        text = str(error)
        assert any(words in text for words in CLEAR), text
        for now, then in zip(call.memory, before, strict=True):
            if not now.is_meta:
                torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)
        return
    if found.is_meta:
        return
    answer = getattr(reference, call.name)(*expected)
    wide = EPSILON[torch.float16] * 8
    torch.testing.assert_close(found, answer, rtol=1e-3, atol=1e-3, equal_nan=True)
    if call.name != "gram":
        for one, other in zip(call.args[0], expected[0], strict=True):
            tolerance = wide if one.element_size() == 4 else 2.0**-5
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


#: What becomes of one argument of a solver.
SPOILT = [
    lambda tensor: tensor.to("meta"),
    lambda tensor: tensor[:0] if tensor.dim() else tensor.reshape(1)[:0],
    lambda tensor: tensor[..., :-1] if tensor.dim() else tensor.new_zeros(2),
    lambda tensor: tensor.to(torch.float32),
    lambda tensor: tensor.expand(2, *tensor.shape),
    lambda tensor: tensor.unsqueeze(-1).expand(*tensor.shape, 2)[..., 0],
    lambda tensor: tensor.to_sparse(),
    lambda tensor: torch.zeros(0, dtype=tensor.dtype),
]
HUGE = [2**31, 2**40, 2**63 - 1, -(2**63), -1]


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_one_argument_is_spoilt(name: str) -> None:
    schema = getattr(torch.ops.mtl_ops, name).default._schema
    for place, argument in enumerate(schema.arguments):
        good = SAMPLES[name](torch.float32)
        if isinstance(good[place], Tensor):
            spoilt = [spoil(good[place]) for spoil in SPOILT]
        elif str(argument.type) == "int" and argument.name not in ("seed", "offset"):
            spoilt = list(HUGE)
        else:
            continue
        for value in spoilt:
            args = list(SAMPLES[name](torch.float32))
            args[place] = value
            check_refused_or_right(name, args)


def check_refused_or_right(name: str, args: list[Any]) -> None:
    """The call raises an error and changes nothing, or gives what the definition gives."""
    copies = cloned(args)
    before = cloned(args)
    try:
        found = getattr(torch.ops.mtl_ops, name)(*args)
    except (RuntimeError, ValueError) as error:
        text = str(error)
        assert any(words in text for words in CLEAR), text
        for now, then in zip(args, before, strict=True):
            for one, other in zip(tensors(now), tensors(then), strict=True):
                assert one.is_meta or torch.equal(one.to_dense(), other.to_dense())
        return
    torch.testing.assert_close(found, getattr(reference, name)(*copies), rtol=1e-4, atol=1e-6)


def tensors(value: Any) -> list[Tensor]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, Tensor)]


class TestOneByOne:
    """What was found by hand."""

    def test_segments_whose_matrices_would_not_fit(self) -> None:
        rows = [torch.ones(3), torch.ones(3)]
        with pytest.raises(RuntimeError, match=f"should be below 65536. Found {2**63 - 1}"):
            ops.gram(rows, 2, [2**63 - 1])

    def test_no_parameter(self) -> None:
        scale = torch.ones(1, 2, dtype=torch.float64)
        for call in (
            lambda: ops.merge_([], [], torch.ones(1, 2, dtype=torch.float64)),
            lambda: ops.merge_median_([], []),
            lambda: torch.ops.mtl_ops.merge_median_([], [], scale, [], None, False),
        ):
            with pytest.raises(
                (RuntimeError, ValueError), match=r"at least one tensor\. Found none"
            ):
                call()

    @pytest.mark.parametrize("which", ["row", "scale", "uniforms"])
    def test_meta_among_real_ones(self, which: str) -> None:
        rows = [torch.ones(3), torch.ones(3, device="meta" if which == "row" else "cpu")]
        scale = torch.ones(1, 2, dtype=torch.float64).to("meta" if which == "scale" else "cpu")
        uniforms = torch.rand(3).to("meta" if which == "uniforms" else "cpu")
        with pytest.raises((RuntimeError, ValueError), match=r"should .*on .*device"):
            ops.merge_graddrop_([torch.ones(3)], rows, scale, leak=[0.0, 0.0], uniforms=uniforms)

    def test_outputs_and_gradients_that_are_parts_of_others(self) -> None:
        block, weights = torch.arange(8.0), torch.ones(1, 1, dtype=torch.float64)
        before = block.clone()
        with pytest.raises(RuntimeError, match="out should hold tensors that share no memory"):
            ops.merge_([block[:4], block[2:6]], [torch.ones(4)] * 2, weights)
        with pytest.raises(RuntimeError, match="of parameter 0 should share no memory with out"):
            ops.merge_([block[:4]], [block[1:5]], weights)
        with pytest.raises(RuntimeError, match="Found that of task 0 elsewhere in out"):
            ops.merge_([block[:4], block[4:]], [torch.ones(4), block[:4]], weights)
        with pytest.raises(RuntimeError, match="elements share no memory"):
            ops.merge_([block[:1].expand(4)], [torch.ones(4)], weights)
        with pytest.raises(RuntimeError, match="elements share no memory"):
            ops.merge_([block.as_strided((3, 2), (1, 1))], [torch.ones(3, 2)], weights)
        assert torch.equal(block, before)

    def test_an_output_that_is_a_gradient(self) -> None:
        rows = [torch.randn(5000), torch.randn(5000)]
        expected = rows[0] + 2 * rows[1]
        ops.merge_([rows[1]], rows, torch.tensor([[1.0, 2.0]], dtype=torch.float64))
        torch.testing.assert_close(rows[1], expected)

    def test_columns_of_a_matrix_are_outputs(self) -> None:
        matrix, weights = torch.zeros(5, 4), torch.ones(1, 1, dtype=torch.float64)
        ops.merge_(
            [matrix[:, :2], matrix[:, 2:]], [torch.ones(5, 2), torch.full((5, 2), 2.0)], weights
        )
        assert torch.equal(matrix, torch.tensor([1.0, 1.0, 2.0, 2.0]).expand(5, 4))

    def test_factors_in_the_memory_of_an_output(self) -> None:
        block = torch.ones(1, 2, dtype=torch.float64)
        with pytest.raises(RuntimeError, match="scale should not share memory with out"):
            ops.merge_median_([block[0]], [torch.ones(2).double()] * 2, block)

    @pytest.mark.parametrize("value", [-1.0, math.nan])
    def test_thresholds(self, value: float) -> None:
        rows, weights = [torch.ones(2)], torch.ones(1, 1, dtype=torch.float64)
        gram = torch.ones(1, 1, 1, dtype=torch.float64)
        message = "should be a number of at least 0. Found (-1|nan|-nan)"
        with pytest.raises(RuntimeError, match=f"clip_value {message}"):
            ops.gram(rows, 1, (), value)
        with pytest.raises(RuntimeError, match=f"max_norm {message}"):
            ops.merge_([torch.ones(2)], rows, weights, gram, (), value)
        with pytest.raises(RuntimeError, match=f"tau {message}"):
            ops.merge_sign_agreement_([torch.ones(2)], rows, tau=value)
        with pytest.raises(RuntimeError, match=f"max_task_norm {message}"):
            ops.task_scales(gram, [1.0], value)

    def test_counts_beyond_32_bits(self) -> None:
        gram = torch.eye(3, dtype=torch.float64).unsqueeze(0)
        with pytest.raises(RuntimeError, match=rf"n_byzantine should be .* Found {2**40}"):
            ops.solve_krum(gram, n_byzantine=2**40, n_selected=1)
        with pytest.raises(RuntimeError, match=r"max_iters should be .* Found -1"):
            ops.solve_mgda_frank_wolfe(gram, max_iters=-1)

    def test_more_tasks_than_the_kernels_take_are_checked_as_well(self) -> None:
        tasks = ops.MAX_TASKS["cpu"] + 1
        rows, weights = [torch.ones(3)] * tasks, torch.ones(1, tasks, dtype=torch.float64)
        for message, call in (
            ("`clip_value` should be", lambda: ops.gram(rows, tasks, (), -1.0)),
            ("`segments` should hold", lambda: ops.gram(rows, tasks, [2**63 - 1])),
            ("of one shape", lambda: ops.merge_([torch.ones(3, 1)], rows, weights)),
            ("share no memory", lambda: ops.merge_([torch.ones(1).expand(3)], rows, weights)),
            (
                "elsewhere in `out`",
                lambda: ops.merge_([rows[0][:2]], [r[1:] for r in rows], weights),
            ),
            (
                "should have shape",
                lambda: ops.merge_([torch.ones(3)], rows, weights, None, (), 1.0),
            ),
            ("`leak` should hold", lambda: ops.merge_graddrop_([torch.ones(3)], rows, leak=[0.0])),
            ("and `trim` should", lambda: ops.merge_trimmed_mean_([torch.ones(3)], rows, trim=-1)),
        ):
            with pytest.raises(ValueError, match=message):
                call()
