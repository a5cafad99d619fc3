"""`python -m kit` is `kit`. Guarded: worker processes import this file too."""

from kit.cli.main import main

if __name__ == "__main__":
    main()
