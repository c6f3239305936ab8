"""The console script, and `python -m partyline`."""

from partyline.starting import hold


def main() -> None:
    """Run the command line."""
    hold()
    from partyline.cli import main as run

    run()


if __name__ == "__main__":
    main()
