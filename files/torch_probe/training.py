"""What a training step does beyond single products: autocast, backward, an optimizer, `torch.compile`."""

from __future__ import annotations

import shutil
import time
from typing import Any

from torch_probe.common import finite, first_line
from torch_probe.device import Device
from torch_probe.report import Autocast, Compile, blank

WIDTH, DEPTH, ROWS = 512, 3, 256


def make_model(torch: Any, device: Device) -> Any:
    """A few layers with normalisation and attention-free mixing; weights are set by the caller, equal everywhere."""
    nn = torch.nn
    layers: list[Any] = []
    for _ in range(DEPTH):
        layers += [nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()]
    layers.append(nn.Linear(WIDTH, 16))
    model = nn.Sequential(*layers)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            layer.bias.data.zero_()  # torch makes it random
    for number, parameter in enumerate(model.parameters()):
        if parameter.dim() == 2:
            values = device.normal(parameter.shape[0], parameter.shape[1], torch.float32, 500 + number)
            parameter.data = values.cpu() / WIDTH**0.5
    return model


def _batch(torch: Any, device: Device) -> tuple[Any, Any]:
    return device.normal(ROWS, WIDTH, torch.float32, 601), device.normal(ROWS, 16, torch.float32, 602)


def check_autocast(device: Device, dtype: str, seconds: float = 0.5) -> Autocast:
    """Loss and gradients under autocast against float64 on the CPU; then some steps, whose loss must fall."""
    torch = device.torch
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    inputs, wanted = _batch(torch, device)
    exact = make_model(torch, device).double()
    truth = torch.nn.functional.mse_loss(exact(inputs.cpu().double()), wanted.cpu().double())
    truth.backward()
    expected = float(truth.detach())
    model = make_model(torch, device).to(device.name)
    scaler = 1024.0 if dtype == "fp16" else 1.0  # gradients below fp16's range would vanish
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda" if device.is_gpu else "cpu", dtype=kind):
            loss = torch.nn.functional.mse_loss(model(inputs).float(), wanted)
        (loss * scaler).backward()
        for parameter in model.parameters():
            parameter.grad /= scaler
        return loss.detach()

    first = step()
    got = [parameter.grad.detach().cpu().double() for parameter in model.parameters()]
    good = [parameter.grad for parameter in exact.parameters()]
    off = sum(float(((a - b) ** 2).sum()) for a, b in zip(got, good))
    size = sum(float((b**2).sum()) for b in good)
    optimizer.step()
    count, last, begin = 0, first, time.monotonic()
    while count < 10 or time.monotonic() - begin < seconds:
        last = step()
        optimizer.step()
        count += 1
    device.wait()
    spent = time.monotonic() - begin
    everything = [first, last, *[parameter.detach() for parameter in model.parameters()]]
    row: Autocast = blank(Autocast)
    row["dtype"], row["steps_per_s"] = dtype, round(count / spent, 1)
    row["loss_error"] = finite(abs(float(first) - expected) / expected)
    row["gradient_error"] = finite((off / size) ** 0.5)
    row["finite"] = all(bool(torch.isfinite(value).all()) for value in everything)
    row["loss_fell"] = bool(float(last) < float(first))
    return row


def compiler_missing(device: Device) -> str | None:
    """Why `torch.compile` cannot be tried: it needs Triton on a GPU and a C compiler anyway. No fault of the host."""
    if not hasattr(device.torch, "compile"):
        return "this torch has no compile"
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang", "c++", "g++")):
        return "no C compiler on this host"
    if device.is_gpu:
        try:
            __import__("triton")
        except Exception as error:  # a Triton of another version raises anything
            return f"no Triton ({first_line(error)})"
    return None


def check_compile(device: Device) -> Compile:
    """The compiled model's result against the eager one."""
    row: Compile = blank(Compile)
    row["outcome"] = "skipped"
    row["message"] = compiler_missing(device)
    if row["message"]:
        return row
    torch = device.torch
    model = make_model(torch, device).to(device.name).eval()
    inputs, _ = _batch(torch, device)
    begin = time.monotonic()
    with torch.no_grad():
        eager = model(inputs)
        compiled = torch.compile(model)(inputs)
    row["seconds"] = round(time.monotonic() - begin, 2)
    row["max_error"] = finite(float((eager - compiled).abs().max()))
    row["outcome"] = "done"
    return row
