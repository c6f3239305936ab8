"""`python -m partyline`."""

from partyline.cli import main

if __name__ == "__main__":
    main()
