"""``python -m absurd_contimg.operations``: the command line without the installed script."""

from absurd_contimg.operations.program import main

main()
