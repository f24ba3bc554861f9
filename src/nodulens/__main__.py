"""``python -m nodulens``: the command line, of this environment's Python, where its script is not on the path."""

from nodulens.apps.cli import main

if __name__ == "__main__":
    main()
