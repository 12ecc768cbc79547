"""Ask whether the environment works: import every package of the set, and train one real step.

Resolving is no proof and importing is no proof: the guide's literal ranges resolve and install cleanly, and then
fail three times (pyarrow on import, torchaudio on import, the Trainer on its first step). Run with the environment's
own Python; prints one line and exits 0, or names every package that fails and exits 1.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import sys
import tempfile
import warnings

# Parts of other packages that are loaded by them, need a driver, or end the interpreter when they are imported.
NOT_BY_THEMSELVES = ("nvidia-", "cuda-", "pytest-cov", "memory-profiler")


def modules_of(distribution: importlib.metadata.Distribution) -> set[str]:
    """The public top-level modules that a distribution installs."""
    names = set()
    for path in distribution.files or []:
        head = path.parts[0]
        if len(path.parts) == 2 and path.name == "__init__.py":
            names.add(head)
        elif len(path.parts) == 1 and path.suffix == ".py":
            names.add(path.stem)
    return {name for name in names if name.isidentifier() and not name.startswith("_")}


def import_all() -> tuple[int, list[str]]:
    """The number of modules imported, and a sentence for each that fails."""
    count, broken = 0, []
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"].lower()
        if name.startswith(NOT_BY_THEMSELVES):
            continue
        for module in sorted(modules_of(distribution)):
            try:
                with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    importlib.import_module(module)
            except BaseException as error:  # a package may even call sys.exit
                broken.append(f"{name} {distribution.version}: import {module}: {type(error).__name__}: {error}")
            else:
                count += 1
    return count, broken


def train_one_step() -> str:
    """One optimiser step of a tiny model through transformers' Trainer, on the CPU. Returns what was done."""
    try:
        import torch
        import transformers
    except ImportError:
        return "no Trainer in this set"

    class Tiny(torch.nn.Module):  # type: ignore[misc] # torch is not here when types are checked
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.layer(x)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    data = [{"x": torch.randn(4), "labels": torch.tensor(i % 2)} for i in range(4)]
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        arguments = transformers.TrainingArguments(
            output_dir=scratch, max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
        )
        loss = transformers.Trainer(model=Tiny(), args=arguments, train_dataset=data).train().training_loss
    if not loss == loss or loss <= 0:
        raise ArithmeticError(f"the training loss is {loss}")
    return f"one Trainer step, loss {loss:.3f}"


def main() -> int:
    """Print the verdict. 0: works, 1: does not."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("MPLBACKEND", "agg")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    count, broken = import_all()
    step = ""
    if not broken:
        try:
            step = train_one_step()
        except Exception as error:
            broken.append(f"transformers Trainer: {type(error).__name__}: {error}")
    for line in broken:
        print(line)
    if not broken:
        print(f"{count} modules imported, {step}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
