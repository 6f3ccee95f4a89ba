"""The model behind docs/gpu-model.md on launches whose time can be worked out by hand, its gates, tables and plot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from gpu import gates
from gpu.cases import gate_cases
from gpu.counts import Counts, Total
from gpu.devices import GPUS, MMA_FLOPS
from gpu.model import FILL_CYCLES, KEPT_BY_L2, LAUNCH, predict, predict_launch, predict_range, roofline
from gpu.report import LABEL, Row, operators_sections, plot, sections, span, write_between_marks

A100, RTX4090, H100 = GPUS
COUNTS = Counts(
    kernel="f",
    blocks=216,
    threads=128,
    resident=2,
    registers=200,
    local_bytes=0,
    shared_bytes=0,
    mma=216 * 1000.0,
    wgmma=False,
    ptx=216 * 900.0,
    sass=216 * 800.0,
    matrix_ptx=216 * 1000,
    matrix_sass=216 * 1000.0,
    loop_sass=0.5,
    shared_read=216 * 85_000,
    wavefronts=216 * 700,
    ideal_wavefronts=216 * 700,
    l1_bytes=0,
    asked_bytes=3_000_000,
    l2_bytes=2_500_000,
    moved_bytes=1_100_000,
)


def test_devices_have_their_published_rates() -> None:
    assert A100.flops == pytest.approx(312e12, rel=0.01)
    assert RTX4090.flops == pytest.approx(165.2e12, rel=0.01)
    assert H100.flops == pytest.approx(0.62 * 989e12, rel=0.05)
    assert H100.wgmma_cycles is not None
    assert MMA_FLOPS / H100.wgmma_cycles * 4 * 132 * 1.83e9 == pytest.approx(989e12, rel=0.01)  # at the boost clock


def test_time_of_a_launch_bound_by_tensor_cores() -> None:
    """Two rounds of 1000 MMAs on four sub-cores, 8 cycles each; the start and end of a block once."""
    cycles = 2 * 1000 * 8 / 4 / 0.8 + FILL_CYCLES
    found = predict_launch(COUNTS, A100, 0.8)
    assert found.seconds == pytest.approx(cycles / 1.41e9 + LAUNCH)
    assert found.terms["tensor"] == pytest.approx(5000 / 1.41e9)
    assert found.limit == "tensor, launch"


def test_a_partial_round_costs_a_whole_one() -> None:
    one_more = replace(COUNTS, blocks=217, mma=217 * 1000.0)
    assert predict_launch(one_more, A100, 0.8).terms["tensor"] == pytest.approx(3 * 1000 * 8 / 4 / 0.8 / 1.41e9)


def test_blocks_that_are_alone_are_not_covered() -> None:
    alone = predict_launch(replace(COUNTS, resident=1), A100, 0.8)
    assert alone.terms["fill"] == pytest.approx(2 * FILL_CYCLES / 1.41e9)


@pytest.mark.parametrize(
    ("changes", "term", "seconds"),
    [
        ({"sass": 216 * 40_000.0}, "issue", 2 * 41_000 / 4 / 1.41e9),
        ({"wavefronts": 216 * 50_000}, "shared", 2 * 50_000 / 1.41e9),
        ({"l1_bytes": 216 * 128 * 50_000}, "shared", 2 * 50_700 / 1.41e9),
        ({"l2_bytes": 900_000_000}, "L2", 900e6 / 4.5e12),
        ({"moved_bytes": 100 << 20}, "DRAM", (100 << 20) / 1.555e12),
    ],
)
def test_what_else_can_bound_it(changes: dict[str, float], term: str, seconds: float) -> None:
    found = predict_launch(replace(COUNTS, **changes), A100, 0.8)  # type: ignore[arg-type]
    assert found.terms[term] == pytest.approx(seconds)
    assert found.limit.split(", ")[0] == term


def test_bytes_that_l2_keeps_do_not_come_from_dram() -> None:
    kept = replace(COUNTS, moved_bytes=int(KEPT_BY_L2 * (40 << 20)), mma=0.0)
    assert "DRAM" not in predict_launch(kept, A100, 0.8).terms
    assert "DRAM" in predict_launch(replace(kept, moved_bytes=kept.moved_bytes + 2), A100, 0.8).terms


def test_wgmma_is_faster_where_it_exists() -> None:
    by_wgmma = replace(COUNTS, wgmma=True)
    fast, slow = (predict_launch(c, H100, 0.8).terms["tensor"] for c in (by_wgmma, COUNTS))
    assert slow / fast == pytest.approx(6.4 / 4)
    assert predict_launch(by_wgmma, A100, 0.8) == predict_launch(COUNTS, A100, 0.8)


def test_launches_add_up() -> None:
    once, twice = Total((COUNTS,), 1_000_000, 1.0), Total((COUNTS, COUNTS), 1_000_000, 1.0)
    assert predict(twice, A100, 0.8).seconds == pytest.approx(2 * predict(once, A100, 0.8).seconds)
    best, worst = predict_range(once, A100)
    assert best.seconds < worst.seconds
    assert (twice.ptx, twice.sass, twice.shared_read) == (0.9, 0.8, 85.0)
    assert (twice.asked, twice.through_l2, twice.dram) == (6.0, 5.0, 2.2)
    assert twice.loop_sass == 0.5 and twice.conflicts == 1.0


def test_units_count_where_there_are_no_products() -> None:
    copy = Total((replace(COUNTS, mma=0.0, sass=400.0, ideal_wavefronts=0),), 1_000_000, 4.0)
    assert copy.sass == 100.0
    assert copy.conflicts == 1.0


def test_roofline() -> None:
    """64 channels at 180x320: 13.6 us of products; a copy of 10 MB from L2, of 100 MB from DRAM."""
    assert roofline(2.0 * 9 * 64 * 64 * 57600, 14_800_000, A100) == pytest.approx(13.6e-6, rel=0.01)
    assert roofline(0.0, 10_000_000, A100) == pytest.approx(10e6 / 4.5e12)
    assert roofline(0.0, 100_000_000, A100) == pytest.approx(100e6 / 1.555e12)


def test_gates() -> None:
    ours = Total((replace(COUNTS, sass=216 * 1003.0),), 1_000_000, 1.0)
    verdicts = {v.quantity: v for v in gates.judge("conv64", ours, "MMA", sized=True)}
    assert not verdicts["the same in the main loop, SASS"].passed  # 0.5, and 0.45 is the limit
    assert verdicts["non-MMA per MMA, SASS"].passed  # 1.003 is 1.00 to two decimals
    assert verdicts["bytes asked over compulsory"].passed
    assert len(gates.judge("conv64", ours, "MMA", sized=False)) == len(verdicts) - 1
    assert gates.judge("nothing", ours, "MMA", sized=True) == []
    equal = gates.compare("conv64", ours, ours, "MMA")
    assert len(equal) == 3 and not any(v.passed for v in equal)
    better = gates.compare("conv64", ours, replace(ours, compulsory=500_000), "MMA")
    assert [v.passed for v in better] == [False, False, True]
    text = gates.report(list(verdicts.values()))
    assert "FAIL  conv64" in text and text.endswith(f"{len(verdicts) - 1} gates pass, 1 fail")


@pytest.mark.parametrize(("key", "quantity"), [(key, name) for key, row in gates.GATES.items() for name in row])
def test_every_gate_is_asked_and_fails_above_its_limit(key: str, quantity: str) -> None:
    limits = gates.GATES[key]
    at, above = SimpleNamespace(**limits), SimpleNamespace(**{**limits, quantity: limits[quantity] + 0.01})
    assert all(v.passed for v in gates.judge(key, at, "MMA", sized=True))
    assert [v.quantity for v in gates.judge(key, above, "MMA", sized=True) if not v.passed] == [
        gates.NAMES[quantity].format(unit="MMA")
    ]
    assert key in {case.key for case in gate_cases(48, 64)}


def test_gates_of_small_images_leave_out_what_depends_on_the_size() -> None:
    asked = [v.quantity for v in gates.judge("gradient", Total((COUNTS,), 1_000_000, 1.0), "MMA", sized=False)]
    assert asked == ["shared wavefronts over ideal", "registers", "spills and stack"]


def test_a_main_loop_that_is_not_found_fails_its_gate() -> None:
    ours = Total((replace(COUNTS, loop_sass=None),), 1_000_000, 1.0)
    verdicts = {v.quantity: v for v in gates.judge("conv64", ours, "MMA", sized=True)}
    assert not verdicts["the same in the main loop, SASS"].passed


def rows() -> dict[str, list[Row]]:
    ours = Total((COUNTS,), 1_000_000, 1.0)
    theirs = Total((replace(COUNTS, wgmma=True), COUNTS), 1_000_000, 1.0)
    some = [Row("a", "conv a", "MMA", 1e9, 1_000_000, ours, theirs), Row("b", "conv b", "MMA", 1e9, 1, ours, None)]
    return {gpu.name: some for gpu in GPUS}


def test_every_table_of_times_says_that_they_are_modelled(tmp_path: Path) -> None:
    text = sections(rows())
    headings = [line for line in text.splitlines() if line.startswith("### ") and "times" in line]
    assert len(headings) == 3 and all(LABEL in heading for heading in headings)
    for table in text.split("\n\n"):
        if table.startswith("|"):
            widths = {line.count("|") for line in table.splitlines()}
            assert len(widths) == 1, table
    assert "not counted" in text
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- generated: begin -->\n<!-- generated: end -->\nafter\n")
    for _ in range(2):
        write_between_marks(document, text)
    assert document.read_text().count("### Devices") == 1
    assert document.read_text().startswith("before\n") and document.read_text().endswith("\nafter\n")
    document.write_text("no marks")
    with pytest.raises(ValueError, match="expected the marks"):
        write_between_marks(document, text)


def test_tables_of_the_triton_operators(tmp_path: Path) -> None:
    """One table of times for all devices, one of counts for each, between marks of their own."""
    ours = {name: [replace(row, triton=None) for row in some] for name, some in rows().items()}
    text = operators_sections(ours)
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert f"### Times, {LABEL}" in text
    assert [len(table.splitlines()) for table in tables] == [4] * 4
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)
    assert all("| conv a | in Triton |" in table for table in tables[1:])
    document = tmp_path / "page.md"
    document.write_text(
        "<!-- generated: begin -->\nkept\n<!-- generated: end -->\n<!-- o: begin -->\n<!-- o: end -->\n"
    )
    write_between_marks(document, text, "o")
    assert "begin -->\nkept\n" in document.read_text()
    assert text in document.read_text()


def test_machine_code_that_is_not_traced_gives_no_time() -> None:
    wrong = Total((replace(COUNTS, matrix_sass=9 * COUNTS.matrix_sass),), 1_000_000, 1.0)
    assert Total((COUNTS,), 1_000_000, 1.0).attributed
    assert not wrong.attributed
    some = [Row("a", "conv a", "MMA", 1e9, 1_000_000, wrong, None)]
    times, counts = operators_sections({A100.name: some}).split("\n\n")[1::2]
    assert times.splitlines()[-1] == "| conv a | - | - |"
    assert "| 0.90 | - |" in counts


def test_plot(tmp_path: Path) -> None:
    plot(rows(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_spans() -> None:
    assert span(12.3e-6, 14.8e-6) == "12 - 15"
    assert span(2.31e-6, 2.38e-6) == "2.3 - 2.4"
    assert span(12.1e-6, 12.2e-6) == "12"
