"""`python -m gateway` is `pagegrid`."""

from gateway.cli import main

main(prog_name="pagegrid")
