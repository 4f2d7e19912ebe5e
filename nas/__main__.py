"""`python -m nas`: the same as the command `nas`."""

from nas.cli.search import main

main()
