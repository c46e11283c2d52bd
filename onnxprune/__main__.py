"""``python -m onnxprune``."""

from onnxprune.cli.wall import main

if __name__ == "__main__":
    main()
