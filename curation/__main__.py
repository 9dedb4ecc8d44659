"""Makes `python -m curation` the same as the `curation` command."""

from curation.cli.app import main

if __name__ == "__main__":
    main()
