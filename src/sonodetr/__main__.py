"""`python -m sonodetr` is the same as `sonodetr`."""

from sonodetr.cli import main

if __name__ == "__main__":
    main()
