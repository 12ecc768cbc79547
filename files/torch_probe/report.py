"""The data of a report: what the measuring hands to the judge, what the judge adds, and the JSON Schema of both.

Every type here is a plain dictionary, so that a worker's answer, a recorded host and a written report are one thing.
The schema is made from these types. Units stand in the names, times are UTC, and what is unknown is None: a reading
that a driver does not support is never 0 or -1.

Fields that the judge fills are marked *judge*; the measuring leaves them None or `not_run`.
"""

# No `from __future__ import annotations`: the schema reads these annotations, on Python 3.9 too.
import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal, Optional, TypedDict

from torch_probe.common import SCHEMA_VERSION, TOOL

Status = Literal[
    "pass", "info", "warn", "fail", "unknown", "skipped", "not_run", "explained", "pending_reboot", "error"
]
Severity = Literal["none", "monitor", "isolate", "reset", "replace", "config"]
Mode = Literal["alone", "together"]
Outcome = Literal["done", "skipped", "not_run", "unknown", "failed", "hang", "pending_reboot"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One verdict. `gpu` is a UUID or PCI address, None for the host as a whole."""

    id: str
    status: Status
    message: str
    remedy: Optional[str] = None
    gpu: Optional[str] = None
    severity: Severity = "none"
    value: Optional[float] = None
    unit: Optional[str] = None
    limit: Optional[dict[str, float]] = None
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)


# ------------------------------------------------------------------------------------------------ one GPU


class Rates(TypedDict):
    """10^12 (on the CPU 10^9) operations a second. Sustained is the median of the window's last third."""

    burst: Optional[float]
    sustained: Optional[float]
    p10: Optional[float]
    median: Optional[float]
    p90: Optional[float]
    cv: Optional[float]
    batches: Optional[int]


class PeakShape(TypedDict):
    """The best of a short list of shapes (M, K, N); for information, the canonical shape is the one that is judged."""

    shape: list[int]
    tflops: float


class Ratio(TypedDict):
    """*judge*: sustained TFLOP/s over each baseline."""

    reference: Optional[float]
    peers: Optional[float]
    history: Optional[float]
    rated: Optional[float]


class Loss(TypedDict):
    """*judge*: the share of the rated speed that is lost to a low clock, and to the kernel or the silicon."""

    clock: Optional[float]
    kernel: Optional[float]


class Clock(TypedDict):
    """NVML's SM clock over the samples of a window."""

    mean: Optional[float]
    min: Optional[float]
    max: Optional[float]


class Temperature(TypedDict):
    """Core temperature over the samples of a window."""

    start: Optional[float]
    max: Optional[float]


class ThrottleShare(TypedDict):
    """Share of the window in which the clock was held down, by the driver's cumulative counters (nanoseconds)."""

    sw_power: Optional[float]
    sw_thermal: Optional[float]
    hw_thermal: Optional[float]
    power_brake: Optional[float]
    board_limit: Optional[float]
    reliability: Optional[float]


class Window(TypedDict):
    """What NVML saw while one product was timed. The clocks under load, never those of an idle GPU."""

    seconds: Optional[float]
    samples: int
    sm_clock_mhz: Clock
    sm_clock_spin_mhz: Optional[float]  # by a kernel that spins a known number of cycles: independent of NVML
    memory_clock_mhz: Optional[float]
    power_w: Optional[float]
    energy_j: Optional[float]
    temp_c: Temperature
    memory_temp_c: Optional[float]
    clock_event_mask_or: Optional[int]  # every bit that any sample had
    clock_event_share: dict[str, float]  # by name of the bit: share of the samples that had it
    throttle_share: ThrottleShare


class Matmul(TypedDict):
    """One dtype's product on one GPU: right or not, of its precision or not, and how fast."""

    dtype: str
    precision_verified: Optional[bool]
    correct: bool
    why: str
    shape: list[int]
    mode: Mode
    tflops: Rates
    stable: Optional[bool]  # the warm-up ended because five batches agreed
    noise: Optional[float]  # spread of two measurements of the same thing, over their mean
    peak_shape: Optional[PeakShape]
    rel_error: Optional[float]
    max_element_error: Optional[float]
    expected_tflops: Optional[float]  # judge
    ratio: Optional[Ratio]  # judge
    efficiency_at_clock: Optional[float]  # judge
    loss: Optional[Loss]  # judge
    window: Optional[Window]
    status: Status  # judge


class Integrity(TypedDict):
    """Three layers: float64 truth on sampled rows, bitwise repeats, and a digest for the vote across equal GPUs."""

    fp64_rows: Optional[int]
    fp64_columns: Optional[int]
    max_elementwise_ratio: Optional[float]  # worst error over this dtype's ordinary worst; above 4 is wrong
    repeat_digests: Optional[int]
    repeat_mismatches: Optional[int]
    digest: Optional[str]
    digest_key: Optional[str]  # what must be equal for two digests to be comparable
    vote: Optional[Literal["agree", "odd", "disagree", "alone"]]  # judge
    memory_test_bytes: Optional[int]
    memory_test_errors: Optional[int]


class Bandwidth(TypedDict):
    """GB/s (10^9). Device copies count bytes read and written; host copies count bytes moved, of pinned memory."""

    device_copy_gb_s: Optional[float]
    device_add_gb_s: Optional[float]
    device_theory_gb_s: Optional[float]  # memory clock x bus width; uncertain for GDDR6X and GDDR7
    h2d_gb_s: Optional[float]
    d2h_gb_s: Optional[float]
    bidir_gb_s: Optional[float]
    far_numa_h2d_gb_s: Optional[float]
    all_gpus_h2d_gb_s: Optional[float]
    copies_verified: Optional[bool]  # every path's copy had the digest of its source


class Pcie(TypedDict):
    """The link. The generation is read during a transfer, because an idle GPU drops to the first."""

    gen_under_load: Optional[int]
    gen_system_max: Optional[int]
    gen_device_max: Optional[int]
    width: Optional[int]
    width_max: Optional[int]
    width_slot_max: Optional[int]
    replays_delta: Optional[int]
    aer_fatal_delta: Optional[int]
    aer_nonfatal_delta: Optional[int]
    aer_correctable_delta: Optional[int]


class Remap(TypedDict):
    """Remapped rows."""

    cor: Optional[int]
    unc: Optional[int]
    pending: Optional[bool]
    failed: Optional[bool]
    banks_low: Optional[int]  # banks with few or no spare rows left
    banks_none: Optional[int]


class RetiredPages(TypedDict):
    """Retired pages of GPUs older than row remapping."""

    single_bit: Optional[int]
    double_bit: Optional[int]
    pending: Optional[bool]


class MemoryHealth(TypedDict):
    """Error counters; a delta is over the run."""

    ecc_mode: Optional[bool]
    ecc_unc_volatile: Optional[int]
    ecc_unc_aggregate: Optional[int]
    ecc_unc_delta: Optional[int]
    ecc_cor_volatile: Optional[int]
    ecc_cor_delta: Optional[int]
    sram_threshold_exceeded: Optional[bool]
    remap: Remap
    retired_pages: RetiredPages
    inforom_valid: Optional[bool]
    recovery_action: Optional[str]


class Nvlink(TypedDict):
    """NVLink. `links_expected` is what an equal GPU here has up, or all of them where an NVSwitch fabric is."""

    links_up: Optional[int]
    links_supported: Optional[int]
    links_expected: Optional[int]
    errors_delta: Optional[int]
    replays_delta: Optional[int]
    recoveries_failed_delta: Optional[int]
    fabric_state: Optional[str]
    fabric_status: Optional[int]


class Xid(TypedDict):
    """One of the driver's error messages."""

    xid: int
    at: Optional[str]
    during_run: bool
    own: Optional[bool]  # raised by a process of this probe
    source: Literal["nvml", "kernel"]
    message: Optional[str]


class Power(TypedDict):
    """Limits in watts. Enforced below default explains a low speed."""

    limit_w: Optional[float]
    default_limit_w: Optional[float]
    min_limit_w: Optional[float]
    max_limit_w: Optional[float]


class Settings(TypedDict):
    """How the GPU is set up. Read, never written."""

    persistence: Optional[bool]
    compute_mode: Optional[int]
    virtualization: Optional[int]
    display_active: Optional[bool]
    sm_clock_max_mhz: Optional[float]
    memory_clock_max_mhz: Optional[float]
    slowdown_temp_c: Optional[float]
    throttle_temp_margin_c: Optional[float]


class Others(TypedDict):
    """Who else used the GPU when the run began. `busy` makes every verdict on speed void."""

    processes: Optional[int]
    memory_share: Optional[float]
    sm_utilization: Optional[float]
    busy: Optional[bool]


class Autocast(TypedDict):
    """A small model, forward and backward under autocast, against the same in float64."""

    dtype: Optional[str]
    steps_per_s: Optional[float]
    loss_error: Optional[float]
    gradient_error: Optional[float]
    finite: Optional[bool]
    loss_fell: Optional[bool]


class Compile(TypedDict):
    """`torch.compile` of the same model, against its eager result."""

    outcome: Outcome
    message: Optional[str]
    seconds: Optional[float]
    max_error: Optional[float]


class Training(TypedDict):
    """What a training step does, beyond single products."""

    autocast: Optional[Autocast]
    compile: Optional[Compile]


class Thermal(TypedDict):
    """How the core warms at full power; a dried-out pad or a stopped fan shows here before it throttles."""

    idle_c: Optional[float]
    after_10s_c: Optional[float]
    rise_c_per_w: Optional[float]


class ReferenceRow(TypedDict):
    """*judge*: the row of the reference data that this GPU is held against."""

    id: str
    confidence: str
    sources: list[str]


class Gpu(TypedDict):
    """One GPU."""

    index: int
    uuid: Optional[str]
    pci_bus_id: Optional[str]
    name: Optional[str]
    serial: Optional[str]
    compute_capability: Optional[str]
    sm_count: Optional[int]
    memory_total_bytes: Optional[int]
    l2_cache_bytes: Optional[int]
    integrated: Optional[bool]
    vbios: Optional[str]
    mig: Optional[bool]
    numa_node: Optional[int]
    reference_row: Optional[ReferenceRow]  # judge
    status: Status  # judge
    settings: Optional[Settings]
    power: Optional[Power]
    others: Optional[Others]
    matmul: list[Matmul]
    integrity: Optional[Integrity]
    bandwidth: Optional[Bandwidth]
    pcie: Optional[Pcie]
    memory_health: Optional[MemoryHealth]
    nvlink: Optional[Nvlink]
    thermal: Optional[Thermal]
    training: Optional[Training]
    xids: list[Xid]


# ------------------------------------------------------------------------------------------------ the host


class Step(TypedDict):
    """What became of one step of the plan on one GPU. What did not run is never silently absent.

    `done`: its data are in the report. `skipped`: by the plan, or not in this hardware. `not_run`: no time was left, or
    an earlier fault came first. `unknown`: it could not be done for a reason that is no fault of the GPU (memory that
    another process holds). `failed`: it raised. `hang`: it did not come back by its deadline and was killed.
    `pending_reboot`: waits for a reboot that is due.
    """

    gpu: Optional[str]
    step: str
    mode: Optional[Mode]
    outcome: Outcome
    message: Optional[str]
    seconds: Optional[float]


class CpuMatmul(TypedDict):
    """One dtype's product on the CPU."""

    dtype: str
    precision_verified: Optional[bool]
    correct: bool
    why: str
    shape: list[int]
    gflops: Rates
    rel_error: Optional[float]
    max_element_error: Optional[float]
    status: Status  # judge


class Cpu(TypedDict):
    """The CPU, where there is no GPU to measure."""

    threads: int
    matmul: list[CpuMatmul]


class P2p(TypedDict):
    """Copies between GPUs, row to column, in the order of `gpus`. None on the diagonal and where there is no access."""

    matrix_gb_s: list[list[Optional[float]]]
    access: list[list[Optional[bool]]]
    verified: Optional[bool]


class Nccl(TypedDict):
    """All-reduce over every GPU. Bus bandwidth is the algorithm's times 2 (n - 1) / n."""

    ranks: int
    version: Optional[str]
    busbw_gb_s: dict[str, Optional[float]]  # by size in MiB
    verified: Optional[bool]


class HostFacts(TypedDict):
    """The host."""

    hostname: Optional[str]
    kernel: Optional[str]
    os: Optional[str]
    architecture: Optional[str]
    python: str
    container: Optional[bool]
    virtualization: Optional[str]
    boot_id: Optional[str]
    pci_nvidia_devices: Optional[int]
    pci_nvidia_vfio: Optional[int]
    cpu_model: Optional[str]
    numa_nodes: Optional[int]
    kernel_log: Optional[Literal["read", "unreadable"]]  # whether Xids of before the run could be looked for


class Software(TypedDict):
    """Versions. Loaded, on disk and in user space must be one."""

    driver: Optional[str]
    driver_module_on_disk: Optional[str]
    driver_user_space: Optional[str]
    cuda_driver: Optional[str]
    torch: Optional[str]
    torch_cuda: Optional[str]
    torch_arch_list: Optional[list[str]]
    nvml: Optional[str]
    nvml_code: Optional[int]
    reboot_needed: Optional[bool]
    env_overrides: dict[str, Optional[str]]


class Tool(TypedDict):
    """This program and how it was called."""

    name: str
    version: str
    profile: str
    args: list[str]


class Source(TypedDict):
    """*judge*: which policy, which reference data."""

    source: Optional[str]
    version: Optional[str]
    sha256: Optional[str]


class Report(TypedDict):
    """The whole report. `checks` is the contract; everything else is its evidence."""

    schema_version: str
    tool: Tool
    started_at: str
    duration_s: float
    status: Literal["pass", "warn", "fail", "skipped", "pending_reboot", "error"]
    exit_code: int
    summary: str
    host: HostFacts
    software: Software
    policy: Optional[Source]
    reference: Optional[Source]
    cpu: Optional[Cpu]
    gpus: list[Gpu]
    p2p: Optional[P2p]
    nccl: Optional[Nccl]
    steps: list[Step]
    checks: list[Check]


class Measured(TypedDict):
    """What the measuring hands to the judge: the report without its verdicts."""

    host: HostFacts
    software: Software
    cpu: Optional[Cpu]
    gpus: list[Gpu]
    p2p: Optional[P2p]
    nccl: Optional[Nccl]
    steps: list[Step]


def gpu_key(gpu: Gpu) -> str:
    """What a check's or a step's `gpu` names it by."""
    return gpu["uuid"] or gpu["pci_bus_id"] or str(gpu["index"])


def blank(kind: Any) -> Any:
    """A value of one of these types with nothing known in it."""
    hints = typing.get_type_hints(kind)
    return {name: _nothing(hint) for name, hint in hints.items()}


def _nothing(hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin is typing.Union:
        return None
    if origin in (list, dict):
        return origin()
    if typing.is_typeddict(hint) if hasattr(typing, "is_typeddict") else hasattr(hint, "__total__"):
        return blank(hint)
    if hint == Status:
        return "not_run"
    return {int: 0, float: 0.0, str: "", bool: False}.get(hint)


# ------------------------------------------------------------------------------------------------ the JSON Schema

_NAMES: Mapping[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean"}


def _schema_of(hint: Any) -> dict[str, Any]:
    """The schema of one annotation."""
    if hint in _NAMES:
        return {"type": _NAMES[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union:  # Optional
        inner = _schema_of(arguments[0])
        if isinstance(inner.get("type"), str) and set(inner) == {"type"}:
            return {"type": [inner["type"], "null"]}
        return {"anyOf": [inner, {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _schema_of(arguments[0])}
    if origin is dict:
        value = {} if arguments[1] is Any else {"additionalProperties": _schema_of(arguments[1])}
        return {"type": "object", **value}
    properties = {name: _schema_of(inner) for name, inner in typing.get_type_hints(hint).items()}
    description = " ".join((hint.__doc__ or "").split())
    return {"type": "object", "description": description, "properties": properties, "required": list(properties)}


def schema(check_ids: list[str]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the report. A later 1.x may add fields; it takes none away."""
    report = _schema_of(Report)
    properties = report["properties"]
    properties["schema_version"] = {"const": SCHEMA_VERSION}
    properties["tool"]["properties"]["name"] = {"const": TOOL}
    properties["started_at"]["pattern"] = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"
    properties["duration_s"]["minimum"] = 0
    properties["exit_code"].update(minimum=0, maximum=255)
    properties["summary"]["minLength"] = 1
    properties["checks"]["minItems"] = 1
    row = properties["checks"]["items"]["properties"]
    row["id"] = {"enum": check_ids}
    row["message"]["minLength"] = 1
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{TOOL} report {SCHEMA_VERSION}",
        **report,
    }
