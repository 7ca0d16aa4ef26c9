"""GradDrop, trimmed mean, median and sign agreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from task_rows import EPSILON, make_out, make_rows, some_missing, strided, with_threads
from torch import Tensor

from mtl_ops import ops, reference
from mtl_ops.reference.elementwise import philox, philox_uniforms

SEGMENTS = [0, 1, 1, 2, 0, 2, 1]

#: Every operator, with keyword arguments for T tasks.
METHODS: dict[str, tuple[Callable[..., Tensor], Callable[[int], dict[str, Any]]]] = {
    "graddrop": (
        ops.merge_graddrop_,
        lambda tasks: {"leak": [0.0] * tasks, "seed": 3, "offset": 5},
    ),
    "leaking graddrop": (
        ops.merge_graddrop_,
        lambda tasks: {"leak": [t / tasks for t in range(tasks)], "seed": -7, "offset": 2**40},
    ),
    "trimmed mean": (ops.merge_trimmed_mean_, lambda _: {"trim": 1}),
    "mean": (ops.merge_trimmed_mean_, lambda _: {"trim": 0}),
    "median": (ops.merge_median_, lambda _: {}),
    "sign agreement": (ops.merge_sign_agreement_, lambda _: {"tau": 0.4}),
    "unanimous sum": (ops.merge_sign_agreement_, lambda _: {"tau": 1.0, "mean": False}),
}
METHOD = pytest.mark.parametrize("method", METHODS)


def run(method: str, out: Sequence[Tensor], rows: Sequence[Tensor | None], *args: Any) -> Tensor:
    call, keywords = METHODS[method]
    return call(out, rows, *args, **keywords(len(rows) // len(out)))


def define(method: str, out: Sequence[Tensor], rows: Sequence[Tensor | None], *args: Any) -> Tensor:
    call, keywords = METHODS[method]
    given = keywords(len(rows) // len(out))
    scale, segments, clip_value, accumulate = [*args, *(None, (), None, False)[len(args) :]]
    before = (out, rows, scale, segments, clip_value, accumulate)
    if call is ops.merge_graddrop_:
        return reference.merge_graddrop_(
            *before, given["leak"], given["seed"], given["offset"], None, ()
        )
    if call is ops.merge_sign_agreement_:
        mean = given.get("mean", True)
        return reference.merge_sign_agreement_(*before, given["tau"], mean)
    return getattr(reference, call.__name__)(*before, *given.values())


def merged(
    method: str, *columns: Sequence[float], kind: torch.dtype = torch.float32
) -> list[float]:
    """Of gradients given coordinate by coordinate."""
    rows = list(torch.tensor(columns, dtype=kind).T.contiguous())
    out = [torch.empty(len(columns), dtype=kind)]
    run(method, out, rows)
    return out[0].tolist()


def assert_near(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Up to rounding, of terms around 1."""
    for one, other in zip(found, expected, strict=True):
        tolerance = 8 * max(EPSILON[one.dtype], EPSILON[torch.float32])
        if one.dtype == torch.float64:
            tolerance = 1e-13
        torch.testing.assert_close(one, other, rtol=tolerance, atol=4 * tolerance)


@METHOD
@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 8, 9, 17, 64])
def test_is_the_definition(
    method: str, tasks: int, dtype: torch.dtype, device: torch.device
) -> None:
    rows = make_rows(tasks, dtype=dtype, device=device, missing=some_missing(tasks))
    scale = torch.linspace(0.5, 1.5, 3 * tasks, dtype=torch.float64, device=device).view(3, tasks)
    if tasks > 3:
        scale[1, 2] = 0
    clip_value, accumulate = (0.7, False) if tasks % 2 == 0 else (None, tasks % 4 == 1)
    out = make_out(rows, len(SEGMENTS))
    other = [tensor.clone() for tensor in out]
    square = run(method, out, rows, scale, SEGMENTS, clip_value, accumulate)
    expected = define(method, other, rows, scale, SEGMENTS, clip_value, accumulate)
    assert_near(out, other)
    assert square.dtype == torch.float64
    torch.testing.assert_close(square, expected, rtol=1e-5, atol=1e-12)


@METHOD
def test_the_answer_is_the_squared_norm_of_what_is_written(method: str) -> None:
    rows = make_rows(5, [(5000,), (33,)])
    out = make_out(rows, 2)
    square = run(method, out, rows)
    exact = torch.cat([tensor.double() for tensor in out]).square().sum()
    torch.testing.assert_close(square, exact, rtol=1e-6, atol=0)
    before = [tensor.clone() for tensor in out]
    torch.testing.assert_close(run(method, out, rows, None, (), None, True), square)
    torch.testing.assert_close(out, [2 * tensor for tensor in before])


class TestWhoTakesPart:
    @METHOD
    @pytest.mark.parametrize("tasks", [5, 12])
    def test_a_task_of_scale_0_is_as_if_it_were_not_there(
        self, method: str, tasks: int, device: torch.device
    ) -> None:
        rows = make_rows(tasks, [(4133,), (5,)], device=device)
        without = rows[: 2 * (tasks - 1)]
        rows[-2:] = [torch.full((4133,), math.nan, device=device), None]
        scale = torch.ones(1, tasks, dtype=torch.float64, device=device)
        scale[0, -1] = 0
        out, other = make_out(without, 2), make_out(without, 2)
        call, keywords = METHODS[method]
        given, fewer = keywords(tasks), keywords(tasks - 1)
        if "leak" in given:
            fewer["leak"] = given["leak"][:-1]
        assert call(out, rows, scale, **given) == call(other, without, **fewer)
        assert all(torch.equal(*pair) for pair in zip(out, other, strict=True))

    @METHOD
    def test_a_single_task_passes_as_it_is(self, method: str, dtype: torch.dtype) -> None:
        rows = make_rows(3, [(300,)], dtype)
        rows[0] = rows[2] = None
        out = make_out(rows, 1)
        run(method, out, rows)
        assert_near(out, [rows[1]])  # type: ignore[list-item]

    @METHOD
    @pytest.mark.parametrize("accumulate", [False, True])
    def test_no_task_at_all(self, method: str, accumulate: bool, device: torch.device) -> None:
        rows = [*make_rows(1, [(300,), (70,)], device=device), None, None]
        scale = torch.tensor([[0.0, 1.0]], dtype=torch.float64, device=device)
        out = make_out(rows, 2)
        before = [tensor.clone() for tensor in out]
        assert run(method, out, rows, scale, (), None, accumulate) == 0
        for tensor, old in zip(out, before, strict=True):
            assert torch.equal(tensor, old if accumulate else torch.zeros_like(old))

    def test_scales_are_those_of_the_segment(self) -> None:
        rows: list[Tensor | None] = [torch.ones(4) for _ in range(6)]
        scale = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], dtype=torch.float64)
        out = make_out(rows, 2)
        ops.merge_median_(out, rows, scale, [1, 0])
        assert [tensor.unique().item() for tensor in out] == [5.0, 2.0]


class TestNonFinite:
    @METHOD
    @pytest.mark.parametrize("tasks", [1, 3, 8, 9, 20])
    def test_a_nan_gives_nan_and_nothing_else(
        self, method: str, tasks: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        rows = make_rows(tasks, [(700,)], dtype, device)
        places = torch.arange(tasks) * 31
        for t, place in enumerate(places.tolist()):
            rows[t][place] = math.nan  # type: ignore[index]
        out = make_out(rows, 1)
        assert run(method, out, rows).isnan()
        assert out[0].isnan().nonzero().flatten().tolist() == places.tolist()

    @pytest.mark.parametrize("tasks", [5, 8, 9, 20])
    def test_an_infinity_is_trimmed_like_any_other_value(self, tasks: int) -> None:
        rows = [row for row in make_rows(tasks, [(100,)]) if row is not None]
        rows[1][7], rows[3][7] = math.inf, -math.inf
        out = [torch.empty(100)]
        ops.merge_trimmed_mean_(out, rows, trim=1)
        rest = [row[7] for t, row in enumerate(rows) if t not in (1, 3)]
        assert out[0][7].item() == pytest.approx(torch.stack(rest).mean().item(), abs=1e-6)

    @METHOD
    def test_a_clamp_does_not_hide_it(self, method: str) -> None:
        rows = [row for row in make_rows(3, [(100,)]) if row is not None]
        rows[1][7] = math.inf
        out = [torch.empty(100)]
        run(method, out, rows, None, (), 0.5)
        assert out[0].isnan().nonzero().flatten().tolist() == [7]


class TestLayouts:
    @METHOD
    def test_how_the_gradients_lie_does_not_matter(self, method: str, dtype: torch.dtype) -> None:
        rows = [row for row in make_rows(3, [(4, 6, 5, 7)], dtype) if row is not None]
        expected = [torch.empty_like(rows[0])]
        run(method, expected, rows)
        last = [row.to(memory_format=torch.channels_last) for row in rows]
        for given in (last, [last[0], *rows[1:]], [strided(row) for row in rows]):
            for out in (
                torch.empty_like(rows[0]),
                torch.empty_like(last[0]),
                strided(torch.zeros_like(rows[0])),
            ):
                run(method, [out], given)
                assert torch.equal(out, expected[0])

    @METHOD
    def test_how_the_elements_are_cut_into_parameters_does_not_matter(self, method: str) -> None:
        flat = [row for row in make_rows(4, [(30_011,)]) if row is not None]
        expected = [torch.empty(30_011)]
        run(method, expected, flat)
        sizes = [1, 63, 64, 200, 0, 13, 4096, 30_011 - 4437]
        rows = [part.view(1, -1) for row in flat for part in row.split(sizes)]
        out = make_out(rows, len(sizes))
        run(method, out, rows)
        assert torch.equal(torch.cat([tensor.flatten() for tensor in out]), expected[0])

    @METHOD
    def test_unaligned_and_too_long_for_the_caches(self, method: str) -> None:
        flat = torch.randn(4, 2_200_003, generator=torch.Generator().manual_seed(0))
        out, expected = flat[3, 1:], [torch.empty(2_200_002)]
        rows = [row[1:] for row in flat[:3]]
        run(method, [out], rows)
        define(method, expected, rows)
        different = (out - expected[0]).abs() > 1e-5
        if "graddrop" in method:  # where P and U are equal up to rounding
            assert different.sum() <= 5
        else:
            assert not different.any()

    @METHOD
    def test_the_output_is_one_of_the_gradients(self, method: str) -> None:
        rows = [row for row in make_rows(3, [(5000,)]) if row is not None]
        expected = [torch.empty(5000)]
        run(method, expected, rows)
        run(method, [rows[1]], rows)
        assert torch.equal(rows[1], expected[0])


@METHOD
def test_the_bits_do_not_depend_on_the_threads(method: str, dtype: torch.dtype) -> None:
    rows = make_rows(5, [(200_000,), (7,), (90_001,)], dtype, missing=[(2, 0)])

    def merge() -> list[Tensor]:
        out = make_out(rows, 3)
        return [run(method, out, rows), *out]

    first, *others = with_threads(merge)
    for other in others:
        assert all(torch.equal(*pair) for pair in zip(first, other, strict=True))


class TestRandomNumbers:
    # "kat_vectors" of Random123, the library of the paper: counter, key, result.
    KNOWN = (
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    )

    @pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
    def test_philox(
        self, counter: Sequence[int], key: Sequence[int], expected: Sequence[int]
    ) -> None:
        low = np.array(counter[0] | counter[1] << 32, dtype=np.uint64).astype(np.int64)
        words = philox(
            torch.tensor([int(low)]), key[0] | key[1] << 32, counter[2] | counter[3] << 32
        )
        assert tuple(words[0].tolist()) == tuple(expected)

    def test_are_uniform_and_never_0_or_1(self) -> None:
        numbers = philox_uniforms(200_000, 11, 0)
        assert numbers.min() > 0
        assert numbers.max() < 1
        assert torch.equal(numbers, numbers.float().double())
        assert abs(numbers.mean() - 0.5) < 5 / math.sqrt(12 * 200_000)
        assert abs(numbers.square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / 200_000)
        neighbours = torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1]
        assert abs(neighbours) < 5 / math.sqrt(200_000)

    def test_seed_and_offset_are_64_bits(self) -> None:
        drawn = [
            tuple(philox_uniforms(8, seed, offset).tolist())
            for seed in (0, 1, 2**32, -1)
            for offset in (0, 1, 2**32, -1)
        ]
        assert len(set(drawn)) == len(drawn)

    @pytest.mark.parametrize(
        ("seed", "offset"), [(0, 0), (1, 0), (0, 1), (2**62 + 5, 7), (-3, -(2**63))]
    )
    def test_the_kernel_draws_the_same(
        self, seed: int, offset: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shapes = [(100,), (4133,), (3, 7)]
        rows = make_rows(6, shapes, dtype, device, missing=[(1, 0)])
        out, other = make_out(rows, 3), make_out(rows, 3)
        drawn = philox_uniforms(4254, seed, offset, device).float()
        leak = [0.0] * 6
        ops.merge_graddrop_(out, rows, leak=leak, seed=seed, offset=offset)
        ops.merge_graddrop_(other, rows, leak=leak, uniforms=drawn)
        assert all(torch.equal(*pair) for pair in zip(out, other, strict=True))

    @pytest.mark.parametrize("merge", [ops.merge_graddrop_, reference.merge_graddrop_])
    def test_a_counter_is_added_to_the_offset(self, merge: Callable[..., Tensor]) -> None:
        rows = [torch.linspace(0.01, 0.99, 200), torch.linspace(-0.99, -0.01, 200)]
        for offset, count in ((0, 5), (7, 0), (3, -3), (2**63 - 1, 9)):
            counter = torch.tensor(count)
            out, other = torch.empty(200), torch.empty(200)
            if merge is ops.merge_graddrop_:
                merge([out], rows, leak=[0.0, 0.0], seed=5, offset=offset, counter=counter)
            else:
                rest = (None, (), None, False, [0.0, 0.0], 5, offset, None, ())
                merge([out], rows, *rest, counter=counter)
            sums = (offset + count + 2**63) % 2**64 - 2**63
            ops.merge_graddrop_([other], rows, leak=[0.0, 0.0], seed=5, offset=sums)
            assert torch.equal(out, other)

    def test_are_those_of_the_last_coordinates_of_a_long_gradient(self) -> None:
        # P = U + 2^-24 keeps the positive gradient, P = U - 2^-24 does not: it shows U exactly.
        count = 100_003
        drawn = philox_uniforms(count, 5, 6)
        for shift, kept in ((2.0**-24, True), (-(2.0**-24), False)):
            share = drawn + shift
            rows = [share.float(), (share - 1).float()]
            out = [torch.empty(count)]
            ops.merge_graddrop_(out, rows, leak=[0.0, 0.0], seed=5, offset=6)
            inside = (share > 0) & (share < 1)
            assert ((out[0] > 0) == kept)[inside].all()


def graddrop_by_definition(
    out: Sequence[Tensor],
    rows: Sequence[Tensor | None],
    *,
    leak: Sequence[float],
    seed: int = 0,
    offset: int = 0,
    uniforms: Tensor | None = None,
    first: Sequence[int] = (),
) -> Tensor:
    return reference.merge_graddrop_(
        out, rows, None, (), None, False, leak, seed, offset, uniforms, first
    )


@pytest.mark.parametrize("merge", [ops.merge_graddrop_, graddrop_by_definition])
class TestNumbers:
    """Coordinates that are told their numbers get what they get among all coordinates."""

    LEAK: dict[str, Any] = {"leak": [0.25, 0.0, 0.5], "seed": 3, "offset": 2**40 + 1}  # noqa: RUF012

    def flat(
        self,
        size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> list[Tensor]:
        return [row for row in make_rows(3, [(size,)], dtype, device) if row is not None]

    @pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 5000])
    def test_slices_of_the_whole(
        self, merge: Callable[..., Tensor], size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        rows = self.flat(5300, dtype, device)
        whole = torch.empty_like(rows[0])
        merge([whole], rows, **self.LEAK)
        for begin in [*range(63, 130), 4, 16, 299, 300]:
            part = slice(begin, begin + size)
            out = torch.empty_like(whole[part])
            merge([out], [row[part] for row in rows], first=[begin], **self.LEAK)
            assert torch.equal(out, whole[part]), begin

    @pytest.mark.parametrize("uniforms", [None, torch.float32, torch.float64])
    def test_tensors_in_any_order(
        self, merge: Callable[..., Tensor], uniforms: torch.dtype | None, device: torch.device
    ) -> None:
        rows = self.flat(6000, device=device)
        given = dict(self.LEAK)
        if uniforms is not None:
            generator = torch.Generator().manual_seed(4)
            given["uniforms"] = torch.rand(6000, generator=generator, dtype=uniforms).to(device)
        whole = torch.empty_like(rows[0])
        square = merge([whole], rows, **given)
        sizes = [1, 700, 0, 63, 64, 65, 3, 4000, 1104]
        begins = [sum(sizes[:p]) for p in range(len(sizes))]
        for seed in range(3):
            order = torch.randperm(9, generator=torch.Generator().manual_seed(seed)).tolist()
            parts = [slice(begins[p], begins[p] + sizes[p]) for p in order]
            out = [torch.empty_like(whole[part]) for part in parts]
            found = merge(
                out,
                [row[part] for row in rows for part in parts],
                first=[begins[p] for p in order],
                **given,
            )
            torch.testing.assert_close(found, square, rtol=1e-12, atol=0)
            for one, part in zip(out, parts, strict=True):
                assert torch.equal(one, whole[part])

    def test_one_number_for_several_coordinates(self, merge: Callable[..., Tensor]) -> None:
        rows = [row[:100] for row in self.flat(200)]
        whole, out = torch.empty(100), [torch.empty(100), torch.empty(60)]
        merge([whole], rows, **self.LEAK)
        merge(out, [part for row in rows for part in (row, row[40:])], first=[0, 40], **self.LEAK)
        assert torch.equal(out[0], whole)
        assert torch.equal(out[1], whole[40:])

    @pytest.mark.parametrize("first", [2**31 - 70, 2**32 - 70, 2**40 + 37, 2**63 - 300])
    def test_large_numbers(
        self, merge: Callable[..., Tensor], first: int, device: torch.device
    ) -> None:
        rows = self.flat(299, device=device)
        out, other = torch.empty_like(rows[0]), torch.empty_like(rows[0])
        merge([out], rows, first=[first], **self.LEAK)
        drawn = philox_uniforms(299, 3, 2**40 + 1, device, first).float()
        merge([other], rows, leak=self.LEAK["leak"], uniforms=drawn)
        assert torch.equal(out, other)

    def test_does_not_depend_on_the_threads(self, merge: Callable[..., Tensor]) -> None:
        rows = self.flat(300_000)
        whole = torch.empty(300_000)
        merge([whole], rows, **self.LEAK)

        def part() -> list[Tensor]:
            out = torch.empty(300_000 - 37)
            merge([out], [row[37:] for row in rows], first=[37], **self.LEAK)
            return [out]

        for found in with_threads(part):
            assert torch.equal(found[0], whole[37:])

    def test_errors(self, merge: Callable[..., Tensor]) -> None:
        out, rows = [torch.ones(2), torch.ones(3)], [torch.ones(2), torch.ones(3)]

        def fails(message: str, **given: Any) -> None:
            with pytest.raises((RuntimeError, ValueError), match=message):
                merge(out, rows, leak=[0.0], **given)

        fails("should be empty or hold .*2.* Found 1", first=[0])
        fails("should be empty or hold .*2.* Found 3", first=[0, 2, 4])
        fails("should not be negative. Found -1", first=[0, -1])
        for number in (4, 6):
            fails("uniforms.*5", uniforms=torch.ones(number))
        fails("uniforms.*7", uniforms=torch.ones(6), first=[5, 0])
        fails("uniforms.*10", uniforms=torch.ones(9), first=[0, 7])
        merge(out, rows, leak=[0.0], uniforms=torch.ones(7), first=[5, 0])
        merge(out, rows, leak=[0.0], uniforms=torch.ones(90), first=[5, 0])
        # there is no coordinate of that number
        merge([torch.ones(0)], [torch.ones(0)], leak=[0.0], uniforms=torch.ones(0), first=[7])


class TestGradDrop:
    def test_keeps_the_gradients_of_one_sign(self) -> None:
        rows = [row for row in make_rows(6, [(5000,)]) if row is not None]
        out = [torch.empty(5000)]
        ops.merge_graddrop_(out, rows, leak=[0.0] * 6, seed=1)
        stack = torch.stack(rows)
        up, down = stack.clamp(min=0).sum(dim=0), stack.clamp(max=0).sum(dim=0)
        near = torch.minimum((out[0] - up).abs(), (out[0] - down).abs())
        assert near.max() < 1e-5

    def test_keeps_the_positive_ones_as_often_as_their_share_says(self) -> None:
        count = 100_000
        rows = [torch.full((count,), 3.0), torch.full((count,), -1.0)]
        out = [torch.empty(count)]
        ops.merge_graddrop_(out, rows, leak=[0.0, 0.0], seed=1)
        kept = (out[0] == 3).double().mean().item()
        assert ((out[0] == 3) | (out[0] == -1)).all()
        assert abs(kept - 0.75) < 5 * math.sqrt(0.75 * 0.25 / count)

    def test_a_leak_of_1_is_the_sum(self) -> None:
        rows = [row for row in make_rows(4, [(500,)]) if row is not None]
        out = [torch.empty(500)]
        ops.merge_graddrop_(out, rows, leak=[1.0] * 4)
        torch.testing.assert_close(out[0], torch.stack(rows).sum(dim=0))

    def test_leaks_task_by_task(self) -> None:
        rows = [torch.tensor([4.0]), torch.tensor([-2.0]), torch.tensor([-8.0])]
        out = [torch.empty(1)]
        ops.merge_graddrop_(out, rows, leak=[0.5, 0.25, 0.0], uniforms=torch.tensor([0.1]))
        assert out[0].item() == 4.0 - 0.25 * 2.0  # P = 2/7 > U
        ops.merge_graddrop_(out, rows, leak=[0.5, 0.25, 0.0], uniforms=torch.tensor([0.9]))
        assert out[0].item() == 0.5 * 4.0 - 2.0 - 8.0

    def test_agreement_always_passes(self) -> None:
        # at the largest and the smallest number that can be drawn
        rows = [torch.tensor([1.0, -1.0, 0.0]), torch.tensor([1e-30, -1e-30, 0.0])]
        for u in (2.0**-24, 1 - 2.0**-24):
            out = [torch.empty(3)]
            ops.merge_graddrop_(out, rows, leak=[0.0, 0.0], uniforms=torch.full((3,), u))
            assert out[0].tolist() == [1.0, -1.0, 0.0]

    def test_uniforms_in_float64_do_not_round_to_1(self) -> None:
        out = [torch.empty(1)]
        u = torch.tensor([1 - 2.0**-40], dtype=torch.float64)
        ops.merge_graddrop_(out, [torch.ones(1), torch.ones(1)], leak=[0.0, 0.0], uniforms=u)
        assert out[0].item() == 2.0

    def test_agrees_with_torchjd(self, monkeypatch: pytest.MonkeyPatch) -> None:
        aggregation = pytest.importorskip("torchjd.aggregation")
        rows = [row for row in make_rows(5, [(3000,)], torch.float64) if row is not None]
        drawn = torch.rand(3000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn)
        leak = torch.linspace(0, 1, 5, dtype=torch.float64)
        out = [torch.empty(3000, dtype=torch.float64)]
        ops.merge_graddrop_(out, rows, leak=leak.tolist(), uniforms=drawn)
        expected = aggregation.GradDrop(leak=leak)(torch.stack(rows))
        torch.testing.assert_close(out[0], expected)


class TestTrimmedMean:
    @pytest.mark.parametrize("tasks", [3, 4, 7, 8, 9, 15, 16, 33, 64])
    def test_agrees_with_a_sort(self, tasks: int) -> None:
        rows = [row.round(decimals=1) for row in make_rows(tasks, [(900,)]) if row is not None]
        sorted_values = torch.stack(rows).double().sort(dim=0).values
        for trim in {0, 1, 2, (tasks - 1) // 2}:
            drop = min(trim, (tasks - 1) // 2)
            out = [torch.empty(900)]
            ops.merge_trimmed_mean_(out, rows, trim=trim)
            expected = sorted_values[drop : tasks - drop].mean(dim=0)
            torch.testing.assert_close(out[0].double(), expected, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("tasks", [3, 8, 20])
    def test_agrees_with_torchjd(self, tasks: int) -> None:
        aggregation = pytest.importorskip("torchjd.aggregation")
        rows = [row for row in make_rows(tasks, [(900,)], torch.float64) if row is not None]
        out = [torch.empty(900, dtype=torch.float64)]
        ops.merge_trimmed_mean_(out, rows, trim=1)
        expected = aggregation.TrimmedMean(trim_number=1)(torch.stack(rows))
        torch.testing.assert_close(out[0], expected)

    def test_is_the_median_where_too_few_take_part(self) -> None:
        assert merged("trimmed mean", [5.0, 1.0]) == [3.0]
        assert merged("trimmed mean", [5.0]) == [5.0]
        rows: list[Tensor | None] = [torch.tensor([v]) for v in (1.0, 2.0, 10.0, 20.0)]
        out = [torch.empty(1)]
        ops.merge_trimmed_mean_(out, rows, trim=40)
        assert out[0].item() == 6.0

    def test_stays_between_the_values(self, dtype: torch.dtype) -> None:
        for tasks in (3, 8, 11):
            rows = [row for row in make_rows(tasks, [(900,)], dtype) if row is not None]
            stack = torch.stack(rows).double()
            for method in ("trimmed mean", "median"):
                out = [torch.empty(900, dtype=dtype)]
                run(method, out, rows)
                slack = 2 * EPSILON[dtype] * stack.abs().max()
                assert (out[0].double() >= stack.min(dim=0).values - slack).all()
                assert (out[0].double() <= stack.max(dim=0).values + slack).all()


class TestMedian:
    @pytest.mark.parametrize("tasks", range(1, 21))
    def test_agrees_with_numpy(self, tasks: int) -> None:
        rows = [row for row in make_rows(tasks, [(900,)], torch.float64) if row is not None]
        out = [torch.empty(900, dtype=torch.float64)]
        ops.merge_median_(out, rows)
        expected = np.median(torch.stack(rows).numpy(), axis=0)
        np.testing.assert_allclose(out[0].numpy(), expected, rtol=1e-15)

    def test_of_an_even_number_is_the_mean_of_the_middle_two(self) -> None:
        assert merged("median", [4.0, 1.0, 2.0, 100.0], [0.0, 0.0, -1.0, 1.0]) == [3.0, 0.0]


class TestSignAgreement:
    def test_keeps_what_enough_tasks_agree_on(self) -> None:
        columns = ([1.0, 2.0, 3.0], [1.0, 2.0, -3.0], [-1.0, -2.0, -3.0], [1.0, 2.0, 0.0])
        assert merged("unanimous sum", *columns) == [6.0, 0.0, -6.0, 0.0]
        assert merged("sign agreement", *columns) == [2.0, 0.0, -2.0, 1.0]

    @pytest.mark.parametrize(("tau", "kept"), [(0.0, True), (0.6, True), (0.61, False), (1, False)])
    def test_threshold(self, tau: float, kept: bool) -> None:
        rows: list[Tensor | None] = [torch.tensor([s]) for s in (1.0, 1.0, 1.0, 1.0, -1.0)]
        out = [torch.empty(1)]
        ops.merge_sign_agreement_(out, rows, tau=tau, mean=False)
        assert out[0].item() == (3.0 if kept else 0.0)


@pytest.mark.parametrize("method", [name for name in METHODS if "graddrop" not in name])
@pytest.mark.parametrize("tasks", [2, 5, 8, 13])
class TestProperties:
    def test_the_order_of_the_tasks_does_not_matter(self, method: str, tasks: int) -> None:
        rows = [row for row in make_rows(tasks, [(900,)], torch.float64) if row is not None]
        out, other = [torch.empty_like(rows[0])], [torch.empty_like(rows[0])]
        run(method, out, rows)
        order = torch.randperm(tasks, generator=torch.Generator().manual_seed(1)).tolist()
        run(method, other, [rows[t] for t in order])
        torch.testing.assert_close(out, other, rtol=1e-13, atol=1e-14)

    def test_degree_1(self, method: str, tasks: int) -> None:
        rows = [row for row in make_rows(tasks, [(900,)]) if row is not None]
        out, other = [torch.empty(900)], [torch.empty(900)]
        run(method, out, rows)
        run(method, other, [2.0**-40 * row for row in rows])
        assert torch.equal(other[0], 2.0**-40 * out[0])
        run(method, other, [-row for row in rows])  # sorted the other way round
        torch.testing.assert_close(other[0], -out[0], rtol=1e-6, atol=1e-6)


class TestErrors:
    def rows(self) -> list[Tensor | None]:
        return [torch.ones(2), torch.ones(2)]

    def test_leak(self) -> None:
        with pytest.raises(RuntimeError, match=r"leak should hold T = 2 numbers. Found 1"):
            ops.merge_graddrop_([torch.ones(2)], self.rows(), leak=[0.0])

    @pytest.mark.parametrize(
        "uniforms", [torch.ones(3), torch.ones(2).half(), torch.ones(2, 2)[:, 0]]
    )
    def test_uniforms(self, uniforms: Tensor) -> None:
        with pytest.raises(RuntimeError, match="float32 or float64, of 2 elements"):
            ops.merge_graddrop_([torch.ones(2)], self.rows(), leak=[0.0, 0.0], uniforms=uniforms)

    def test_first_numbers_beyond_63_bits(self) -> None:
        message = (
            "first should leave room for the numbers of parameter 0. Found 9223372036854775806"
        )
        with pytest.raises(RuntimeError, match=message):
            ops.merge_graddrop_([torch.ones(2)], self.rows(), leak=[0.0, 0.0], first=[2**63 - 2])

    def test_trim(self) -> None:
        with pytest.raises(RuntimeError, match=r"trim should not be negative. Found -1"):
            ops.merge_trimmed_mean_([torch.ones(2)], self.rows(), trim=-1)

    @pytest.mark.parametrize(
        "scale", [torch.ones(1, 2), torch.ones(1, 3).double(), torch.ones(2).double()]
    )
    @METHOD
    def test_scale(self, method: str, scale: Tensor) -> None:
        with pytest.raises(RuntimeError, match=r"of shape \(S, T\) with S >= 1 and T = 2"):
            run(method, [torch.ones(2)], self.rows(), scale)

    @METHOD
    def test_gradients_are_checked(self, method: str) -> None:
        with pytest.raises(RuntimeError, match="one shape: task 0 has another than the output"):
            run(method, [torch.ones(3)], self.rows())
