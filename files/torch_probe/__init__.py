"""Does this host compute with torch, and right, and as fast as it should? No root, no network, no change to the host.

The modules in the order in which the work flows; each imports only from those above it:

1. `common`, `report`, `checks`: names; the data of a report and its schema; the catalogue of check ids;
2. `facts`, `faults`: the look at the host, and the chain of causes why a GPU that is there cannot compute;
3. `arithmetic`, `measure`: what a dtype's product may err; matrix products, checked and timed;
4. `run`: one run, which gathers the data;
5. `judge`: from the data to verdicts, a pure function;
6. `render_text`, `output`: the renderings and where they are written;
7. `watch`, `cli`: deadline and signals, and the command line.

torch and pynvml (of ``nvidia-ml-py``) are optional and imported when first needed; ``--help``, ``--version``,
``--schema``, ``--list-checks`` and ``--explain`` work with neither.
"""
