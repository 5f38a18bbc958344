"""`python -m clipzs`: the same as the `clipzs` command."""

from clipzs.cli import main

main()
