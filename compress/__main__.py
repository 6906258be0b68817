"""``python -m compress`` is ``compressor``."""

from compress.cli.main import main

if __name__ == "__main__":
    main()
