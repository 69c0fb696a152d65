"""``python -m stakes``, and thus ``torchrun -m stakes`` and ``accelerate launch -m stakes``."""

from stakes.cli import main

if __name__ == "__main__":
    main()
