"""Does this host compute with torch, and right, and as fast as it should? No root, no network, no change to the host.

The modules in the order in which the work flows; each imports only from those above it:

1. `common`, `report`, `checks`: names; the data of a report and its schema; the catalogue of check ids;
2. `facts`, `faults`: the look at the host, and the chain of causes why a GPU that is there cannot compute;
3. `device`, `arithmetic`, `measure`, `integrity`, `bandwidth`, `training`, `nvml`, `kernel_log`: each kind of reading;
4. `reference`, `policy`, `history`: what the data are held against, each with its file;
5. `causes`, `verdict`, `health`, `beside`, `judge`: from the data to verdicts, a pure function;
6. `render_text`, `_junit`, `_prometheus`, `_html`, `_github`, `output`: the renderings and where they are written;
7. `plan`, `workers`, `steps`, `conduct`, `run`: what is measured when, in a process a GPU, and one run of it all;
8. `simulate`, `selftest`: recorded hosts, and planted faults;
9. `flags`, `watch`, `cli`: the command line, its deadline and signals.

torch and pynvml (of ``nvidia-ml-py``) are optional and imported when first needed; ``--help``, ``--version``,
``--schema``, ``--list-checks``, ``--explain`` and ``--simulate`` work with neither.
"""
