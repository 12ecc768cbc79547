"""Run the packed program that comes on standard input, in base64, from a directory that is gone afterwards."""

import base64
import pathlib
import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory(prefix="torch_probe.") as place:
    program = pathlib.Path(place, "torch_probe.py")
    program.write_bytes(base64.b64decode(sys.stdin.buffer.read()))
    code = subprocess.run(
        [sys.executable, str(program), *sys.argv[1:]], stdin=subprocess.DEVNULL, check=False
    ).returncode
sys.exit(code)
