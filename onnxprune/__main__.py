"""``python -m onnxprune``."""

from onnxprune.cli.main import main

if __name__ == "__main__":
    main()
