"""Bytes, FLOPs and collectives of small programs, counted by hand."""

from pathlib import Path

from leukjax.compiler import compiled
from leukjax.compiler.program import Array, parse
from leukjax.compiler.targets import TARGETS

GPU = (Path(__file__).parent / "gpu.hlo").read_text()
TPU = (Path(__file__).parent / "tpu.hlo").read_text()


def by_name(text):
    return {cost.operation.name: cost for cost in compiled.costs(parse(text))}


def test_shapes_and_operands():
    entry = parse(GPU).entry
    assert entry.by_name["f"].operands == ("a", "b.1")
    assert entry.by_name["conv"].shape == (Array("bf16", (1, 3, 3, 5)), Array("u8", (4096,)))
    assert entry.by_name["f"].source == "jvp(Net)/conv1/add"
    assert parse(TPU).entry.by_name["on-chip"].shape == (Array("f32", (4, 8), space=1),)


def test_a_fusion_moves_its_operands_and_results_only():
    assert by_name(GPU)["f"].bytes == 2 * 32 + 4 * 8 + 2 * 32


def test_a_gather_reads_only_its_rows():
    assert by_name(GPU)["g"].bytes == 32 + 4 * 4 + 4 * 32


def test_workspace_of_a_library_is_not_counted():
    assert by_name(GPU)["conv"].bytes == 2 * (108 + 135 + 45)


def test_convolutions_count_no_products_with_padding():
    # Along an axis of 6, stride 2, padding 1: outputs 0, 1, 2 see 2, 3 and 3 numbers.
    assert by_name(GPU)["conv"].flops == 2 * 5 * 3 * 8 * 8
    assert by_name(GPU)["d"].flops == 2 * 8 * 8 * 4


def test_loops_count_their_trips():
    square = by_name(GPU)["square"]
    assert (square.times, square.bytes) == (7, 3 * 128)


def test_a_collective_overlaps_what_is_computed_before_it_ends():
    assert compiled.collectives(parse(GPU)) == [
        ("all-reduce", 32, False),
        ("all-reduce", 32, True),
    ]


def test_on_chip_memory_is_free_and_cycles_are_the_compilers():
    costs = by_name(TPU)
    assert costs["slice-start"].bytes == 4 * 32  # the part that is read
    assert costs["slice-done"].bytes == costs["on-chip"].bytes == 0
    assert costs["out"].bytes == 4 * 128
    assert sum(cost.cycles for cost in costs.values()) == 130


def test_the_summary_adds_up():
    target = TARGETS["h100"]
    rows = compiled.costs(parse(GPU))
    summary = compiled.summarize(GPU, target, images=4)
    assert summary.bytes_per_image == sum(row.bytes * row.times for row in rows) / 4
    seconds = sum(row.bytes * row.times for row in rows) / target.bandwidth
    assert summary.images_per_second == 4 / seconds  # nothing here is bound by FLOPs
    assert summary.bound_by_memory == 1
    assert summary.collectives == {
        "all-reduce": {"number": 2, "megabytes": 64 / 1e6, "overlapped": 1}
    }
    assert sum(row.share for row in summary.costliest) <= 1 + 1e-9
    assert summary.costliest[0].name == "square"
