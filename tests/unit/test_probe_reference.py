"""The reference data: every row recomputed, and no GPU held against a row that is not its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from torch_probe import reference

TABLE = reference.load()
ROWS = TABLE.data["rows"]
IDS = [row["id"] for row in ROWS]
GIB = 2**30


def gpu(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A GPU of this row as NVML and torch name it."""
    prefix = "" if row["names"][0].startswith(("Tesla", "Quadro")) else "NVIDIA "
    return {
        "name": prefix + row["names"][0],
        "sm_count": row["sm_count"],
        "memory_total_bytes": int(row["memory_gb"][0] * GIB * 0.97),
        "compute_capability": row["compute_capability"],
        "mig": False,
        **changes,
    }


def test_it_is_whole() -> None:
    assert len(ROWS) == 88
    assert len(set(IDS)) == len(IDS)
    assert re.fullmatch(r"20\d\d\.\d\d", TABLE.version)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_a_row_has_a_source_a_confidence_and_plausible_numbers(row: dict[str, Any]) -> None:
    assert row["sources"]
    for source in row["sources"]:
        assert source.startswith("https://") or source in TABLE.data["sources"]
    assert row["confidence"] in ("measured", "derived", "low")
    assert row["confidence"] != "low" or row.get("note")
    assert row["class"] in TABLE.data["classes"]
    assert all(measured["source"] in TABLE.data["sources"] for measured in row["measured"])
    assert 5 <= row["power_w"] <= 1500
    assert 190 <= row["memory_gb_s"] <= 8000
    # DCGM's own file has an H200 at 2.3 GB/s and an L40 at a tenth: a unit that is wrong shows here.
    copy = row["memory_copy_gb_s"]
    assert copy is None or 0.6 < copy / row["memory_gb_s"] < 1.0
    assert row["pcie"] is None or (row["pcie"][0] in (3, 4, 5, 6) and row["pcie"][1] in (8, 16))


@pytest.mark.parametrize("row", [row for row in ROWS if row["basis"] == "rate"], ids=lambda row: row["id"])
def test_a_rate_row_is_sms_times_rate_times_clock(row: dict[str, Any]) -> None:
    for dtype, rated in row["dense_tflops"].items():
        rate = TABLE.flops_per_clock(gpu(row), dtype)
        if rated is None:
            assert rate is None or dtype == "tf32", dtype
            continue
        assert rate is not None
        computed = row["sm_count"] * rate * row["boost_mhz"] * 1e6 / 1e12
        assert rated == pytest.approx(computed, rel=0.01), dtype


@pytest.mark.parametrize("row", [row for row in ROWS if row["basis"] == "datasheet"], ids=lambda row: row["id"])
def test_a_datasheet_row_is_near_it_too(row: dict[str, Any]) -> None:
    """Datasheets round, and some count with a lower clock than the boost; a doubled, sparse figure would be far off."""
    if not row["sm_count"] or not row["boost_mhz"]:
        pytest.skip("NVIDIA does not publish the clock")
    rate = TABLE.flops_per_clock(gpu(row), "fp16")
    assert rate is not None
    computed = row["sm_count"] * rate * row["boost_mhz"] * 1e6 / 1e12
    assert row["dense_tflops"]["fp16"] == pytest.approx(computed, rel=0.09)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_the_ratios_are_those_of_its_class_and_none_is_sparse(row: dict[str, Any]) -> None:
    dense = row["dense_tflops"]
    half, full = dense["fp16"], dense["fp32"]
    allowed = {"geforce": (1.9, 4.1), "volta": (7.5, 8.5)}.get(row["class"])
    if row["compute_capability"].startswith(("8.6", "8.9", "12")) and row["class"] != "geforce":
        allowed = (3.8, 4.3)
    elif row["compute_capability"] == "7.5" and row["class"] != "geforce":
        allowed = (7.8, 8.2)
    low, high = allowed or (13.5, 31.5)  # data centre: 16 (A100), 14 to 15 (H100), 28 to 31 (Blackwell)
    assert low <= half / full <= high
    assert dense["bf16"] in (None, half)
    if dense["tf32"] is not None:
        assert half / dense["tf32"] == pytest.approx(2, rel=0.02)
    if dense["fp8"] is not None:
        assert dense["fp8"] / half == pytest.approx(2, rel=0.02)
    for measured in row["measured"]:
        # GeForce boosts above its rated clock; nothing else exceeds what it is rated for.
        rated = dense[measured["dtype"]]
        assert rated is not None
        assert measured["tflops"] / rated < (1.16 if row["class"] == "geforce" else 1.0)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_a_gpu_finds_its_own_row(row: dict[str, Any]) -> None:
    found, why = TABLE.find(gpu(row))
    assert found is not None, why
    assert found.id == row["id"]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_no_row_takes_a_laptop_part_a_variant_or_a_longer_name(row: dict[str, Any]) -> None:
    name = gpu(row)["name"]
    strangers = [
        gpu(row, name=f"{name} Laptop GPU"),
        gpu(row, name=f"{name} with Max-Q Design"),
        gpu(row, name=name[:-1]),
    ]
    if row["sm_count"]:
        strangers.append(gpu(row, sm_count=row["sm_count"] - 2))
    strangers.append(gpu(row, memory_total_bytes=int(min(row["memory_gb"]) * GIB * 0.6)))
    for stranger in strangers:
        found, why = TABLE.find(stranger)
        assert found is None or found.id != row["id"], stranger["name"]
        assert why


def test_cards_of_one_name_are_told_apart_by_their_memory() -> None:
    names = {}
    for sms, gib in ((68, 9.8), (70, 11.8)):
        found, _ = TABLE.find({"name": "NVIDIA GeForce RTX 3080", "sm_count": sms, "memory_total_bytes": gib * GIB})
        assert found
        names[gib] = found.id
    assert names == {9.8: "geforce-rtx-3080-10gb", 11.8: "geforce-rtx-3080-12gb"}
    unknown, why = TABLE.find({"name": "NVIDIA GeForce RTX 3080"})
    assert unknown is None
    assert "do not tell which" in why


@pytest.mark.parametrize(
    ("row_id", "dtype", "value", "confidence"),
    [
        ("h200-sxm", "bf16", 787, "measured"),  # the median of two
        ("h100-sxm", "fp8", 1402.6, "measured"),
        ("geforce-rtx-4090", "bf16", 166, "measured"),
        ("geforce-rtx-4090", "fp16", 0.95 * 165.2, "derived"),  # kernels differ by dtype: bf16's figure is not fp16's
        ("t4", "fp16", 24, "measured"),  # 75 W: the lowest, because it falls within seconds
        ("l4", "fp16", 87, "low"),
        ("geforce-rtx-2080-ti", "fp16", 44.9, "low"),
        ("rtx-pro-4500-blackwell", "bf16", 0.80 * 202.1, "low"),
        ("h100-sxm", "fp32", None, None),  # published figures of one card differ by a third
        ("t4", "bf16", None, None),
    ],
)
def test_expectations(row_id: str, dtype: str, value: float | None, confidence: str | None) -> None:
    row = next(row for row in TABLE.rows if row.id == row_id)
    found = row.tflops(dtype)
    if value is None:
        assert found is None
        return
    assert found is not None
    assert found.value == pytest.approx(value)
    assert found.confidence == confidence
    assert found.source


def test_parts_whose_rate_is_capped_have_no_efficiency() -> None:
    """An H20 has the SMs of an H100 and a seventh of its rate."""
    assert TABLE.flops_per_clock({"name": "NVIDIA H20", "compute_capability": "9.0"}, "bf16") is None
    assert "capped" in TABLE.find({"name": "NVIDIA H20"})[1]
    assert TABLE.flops_per_clock({"name": "NVIDIA H300", "compute_capability": "9.0"}, "bf16") == 4096
    assert TABLE.flops_per_clock({"name": "NVIDIA GeForce X", "compute_capability": "12.0"}, "bf16") == 512
    assert TABLE.flops_per_clock({"name": "NVIDIA X", "compute_capability": "99.0"}, "bf16") is None


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    text = (Path(reference.__file__).parent / "gpu_reference.json").read_text(encoding="utf-8")
    (tmp_path / "mine.json").write_text(text.replace('"2026.11"', '"mine"'), encoding="utf-8")
    mine = reference.load(tmp_path / "mine.json")
    assert (mine.version, mine.source) == ("mine", str(tmp_path / "mine.json"))
    assert mine.sha256 != TABLE.sha256
