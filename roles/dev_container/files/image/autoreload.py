"""A notebook sees the modules as they are now, not as they were when it imported them."""

from IPython import get_ipython

shell = get_ipython()
if shell is not None:
    shell.run_line_magic("load_ext", "autoreload")
    shell.run_line_magic("autoreload", "2")
