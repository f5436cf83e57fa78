"""`python -m bbx`."""

from bbx.cli import main

if __name__ == "__main__":
    main()
