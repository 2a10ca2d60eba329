"""`python -m fieldstone.cli`."""

from fieldstone.cli import main

if __name__ == "__main__":
    main()
