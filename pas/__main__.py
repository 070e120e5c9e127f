"""`python -m pas` is `pas`."""

from pas.cli import main

main()
