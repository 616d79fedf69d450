"""``python -m absurd_contimg.operations``: the command line without its installed script."""

from absurd_contimg.operations.cli.main import main

main()
