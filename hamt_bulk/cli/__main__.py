"""`python -m hamt_bulk.cli`."""

from hamt_bulk.cli import main

if __name__ == "__main__":
    main()
